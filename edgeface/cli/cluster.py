"""`edgeface cluster`: a pile of pictures into people."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.output import Json, print_rows

if TYPE_CHECKING:
    from edgeface.piles import Sorted


def cluster(
    pictures: Annotated[Path | None, typer.Argument(help="Folder of pictures.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("people"),
    update: Annotated[bool, typer.Option("--update", help="Add new pictures to OUT.")] = False,
    folders: Annotated[
        str | None, typer.Option(help="link or copy: a folder per person as well.")
    ] = None,
    into: Annotated[str | None, typer.Option(help="Gallery that the people go into.")] = None,
    features: Annotated[Path | None, typer.Option(help="float32 features file instead.")] = None,
    dim: Annotated[int, typer.Option(help="Numbers per row of --features.")] = 256,
    labels: Annotated[Path | None, typer.Option(help="True labels (.meta) to score by.")] = None,
    knn: Annotated[
        Path | None, typer.Option(help="kNN file (.npz) of the features; written if absent.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The original's .yaml that names these four instead.")
    ] = None,
    model: Annotated[str, typer.Option(help="Embedder: a name or file.")] = "mobilefacenet",
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of each network.")] = 2,
    as_json: Json = False,
) -> None:
    """Sort a pile of pictures into people: JSON, CSV, a page to look at, folders, a gallery."""
    from edgeface.cluster.config import Config
    from edgeface.piles import cluster_features

    if sum(given is not None for given in (pictures, features, config)) != 1:
        raise typer.BadParameter("give a folder of pictures, --features FILE or --config FILE")
    if folders not in {None, "link", "copy"}:
        raise typer.BadParameter(f"--folders is {folders!r}; use link or copy")
    if features is not None:
        config_of = Config(features, dim, labels, knn, 80)
    elif config is not None:
        config_of = Config.read(config)
    else:
        config_of = None
    if config_of is not None:
        out.mkdir(parents=True, exist_ok=True)
        found, scores = cluster_features(
            config_of.features,
            config_of.dimension,
            labels=config_of.labels,
            neighbours=config_of.neighbours,
            k=config_of.k,
            output=out / "labels.meta",
        )
        config_of.write(out / "config.yaml")
        rounded = {name: round(value, 4) for name, value in scores.items()}
        print_rows([{"faces": len(found.labels), "people": len(found), **rounded}], as_json)
        return
    assert pictures is not None
    result = _sort(pictures, out, update, folders, into, model, runtime, threads)
    for file, reason in result.unreadable:
        print(f"edgeface: passed over {file}: {reason}", file=sys.stderr)
    sizes = Counter(row.person for row in result.rows)
    rows = [{"person": p, "faces": n} for p, n in sorted(sizes.items(), key=lambda x: -x[1])]
    print_rows(rows, as_json)
    print(f"edgeface: see {out / 'report.html'}", file=sys.stderr)


def _sort(
    pictures: Path,
    out: Path,
    update: bool,
    folders: str | None,
    into: str | None,
    model: str,
    runtime: str,
    threads: int,
) -> Sorted:
    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.gallery import Gallery
    from edgeface.piles import cluster_folder, enroll_people

    detector = Detector.load(runtime=runtime, threads=threads)  # type: ignore[arg-type]
    embedder = Embedder.load(model, runtime=runtime, threads=threads)  # type: ignore[arg-type]
    result = cluster_folder(
        pictures,
        out,
        detector=detector,
        embedder=embedder,
        update=update,
        into=folders,  # type: ignore[arg-type]
    )
    if into is not None:
        with Gallery.open(into, model=embedder.card.digest, size=embedder.size) as gallery:
            count = enroll_people(result, gallery)
        print(f"edgeface: {count} people put into {into}", file=sys.stderr)
    return result
