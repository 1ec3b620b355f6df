"""`edgeface cluster`: a pile of pictures into people."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.options import SIDE, MaxSide, Threads
from edgeface.cli.output import Json, print_rows, say, say_passed
from edgeface.cli.progress import Progress
from edgeface.errors import ArgumentError

if TYPE_CHECKING:
    from edgeface.piles import Sorted


def cluster(
    pictures: Annotated[
        Path | None, typer.Argument(help="Folder of pictures; with --open it may be left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("people"),
    update: Annotated[
        bool, typer.Option("--update", help="Bring OUT up to date: new, changed and gone pictures.")
    ] = False,
    folders: Annotated[
        str | None, typer.Option(help="link or copy: a folder per person as well.")
    ] = None,
    into: Annotated[str | None, typer.Option(help="Gallery that the people go into.")] = None,
    collages: Annotated[
        bool, typer.Option("--collages", help="A picture may show one person several times.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--open", help="Then name, merge and split people in a browser.")
    ] = False,
    model: Annotated[str, typer.Option(help="Embedder: a name or file.")] = "mobilefacenet",
    edge_model: Annotated[
        Path | None, typer.Option("--edge-model", help="What links faces (.json); default ours.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino.")] = "auto",
    threads: Threads = 2,
    max_side: MaxSide = SIDE,
    as_json: Json = False,
) -> None:
    """Sort unlabelled pictures into people.

    The result is JSON, CSV, a page to look at and, on request, folders or a gallery.
    """
    if pictures is None and not show:
        raise ArgumentError("give a folder of pictures")
    if pictures is None and (update or folders or into):
        raise ArgumentError("--update, --folders and --into need the folder of pictures")
    if folders not in {None, "link", "copy"}:
        raise ArgumentError(f"--folders is {folders!r}; use link or copy")
    if pictures is not None:
        networks = {"runtime": runtime, "threads": threads}
        result = _sort(
            pictures, out, update, folders, into, collages, model, edge_model, networks, max_side
        )
        _tell(result)
        sizes = Counter(row.person for row in result.rows if row.person >= 0)
        names = {row.person: row.label for row in result.rows}
        rows: list[dict[str, Any]] = [
            {"person": p, "name": names[p] or None, "faces": n}
            for p, n in sorted(sizes.items(), key=lambda x: (-x[1], x[0]))
        ]
        print_rows(rows, as_json)
        say(f"see {out / 'report.html'}")
    if show:
        _serve(out)


def _sort(
    pictures: Path,
    out: Path,
    update: bool,
    folders: str | None,
    into: str | None,
    collages: bool,
    model: str,
    edge_model: Path | None,
    networks: dict[str, Any],
    max_side: int,
) -> Sorted:
    from edgeface.cluster import EdgeModel
    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.gallery import Gallery
    from edgeface.piles import cluster_folder, enroll_people
    from edgeface.thresholds import ThresholdProvider

    edges = None if edge_model is None else EdgeModel.load(edge_model)
    detector = Detector.load(max_side=max_side, **networks)
    embedder = Embedder.load(model, **networks)
    with Progress("pictures") as line:
        result = cluster_folder(
            pictures,
            out,
            detector=detector.search,
            embedder=embedder,
            update=update,
            into=folders,  # type: ignore[arg-type]
            collages=collages,
            model=embedder.card.digest,
            edge_model=edges,
            progress=line.at,
        )
    if into is not None:
        with Gallery.open(into, model=embedder.card.digest, size=embedder.size) as gallery:
            threshold = ThresholdProvider(gallery, embedder.card)().known
            done = enroll_people(result, gallery, threshold=threshold)
        say(
            f"{into}: {done.created} people are new, {done.recognised} were there, "
            f"{done.added} faces added"
        )
    return result


def _tell(result: Sorted) -> None:
    for file, reason in result.unreadable:
        say(f"passed over {file}: {reason}")
    say_passed(result.passed)
    if result.unfit:
        faces = "1 face" if result.unfit == 1 else f"{result.unfit} faces"
        say(f"{faces} cannot be judged and are nobody")


def _serve(out: Path) -> None:
    import webbrowser

    from edgeface.piles.server import PileServer

    with PileServer(out) as server:
        say(f"{server.address} (Ctrl-C ends it)")
        webbrowser.open(server.address)
        server.serve_forever()
