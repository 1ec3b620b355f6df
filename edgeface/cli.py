"""The command line. stdout is data (a table on a terminal, JSON lines on a pipe), stderr is talk.

Exit codes: 0 done, 1 the data were at fault, 2 the command or the environment was. Everything heavy
is imported inside the verbs so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgeface.errors import EdgefaceError, KernelError, ModelError

if TYPE_CHECKING:
    from edgeface.identify import Identifier
    from edgeface.types import Event, Frame, Sighting

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
people = typer.Typer(no_args_is_help=True, help="Look after the people of a gallery.")
models = typer.Typer(no_args_is_help=True, help="The models edgeface can use.")
app.add_typer(people, name="gallery")
app.add_typer(models, name="models")

Json = Annotated[bool, typer.Option("--json", help="JSON lines even on a terminal.")]
GalleryFile = Annotated[Path, typer.Argument(help="Gallery file, made when missing.")]
GalleryOption = Annotated[Path | None, typer.Option("--gallery", "-g", help="Gallery file.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each network.")]
RuntimeOption = Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")]
Embedding = Annotated[str, typer.Option("--model", help="Embedder: a name or a model file.")]
Limit = Annotated[float | None, typer.Option("--threshold", help="Least cosine of a match.")]


def main() -> NoReturn:
    """Entry point: errors become one line on stderr and an exit code."""
    # FFmpeg and OpenCV report what edgeface reports better.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        app()
    except EdgefaceError as error:
        print(f"edgeface: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ModelError | KernelError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our pipe has left: nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Face identification on a CPU: who is in front of the camera, offline."""
    if version:
        import edgeface

        print(edgeface.__version__)
        raise typer.Exit


@app.command()
def enroll(
    gallery: GalleryFile,
    what: Annotated[list[str], typer.Argument(help="NAME IMAGE…, or a folder people/NAME/*.jpg")],
    faces: Annotated[str, typer.Option(help="require_one, largest or skip.")] = "require_one",
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """Add people to a gallery: one by name and pictures, or a folder of folders."""
    if faces not in {"require_one", "largest", "skip"}:
        raise typer.BadParameter(f"--faces is {faces!r}; use require_one, largest or skip")
    groups = _groups(what)
    rows: list[dict[str, Any]] = []
    with _open(gallery, model=model, runtime=runtime, threads=threads) as identifier:
        for name, files in _progress(groups, "enrolling"):
            done = identifier.enroll(name, files, policy=faces)  # type: ignore[arg-type]
            for source, reason in done.skipped:
                print(f"edgeface: skipped {source}: {reason}", file=sys.stderr)
            person = done.person
            rows.append({"person_id": person.id, "name": person.name, "added": done.added})
    _print(rows, as_json)


@app.command()
def identify(
    pictures: Annotated[list[str] | None, typer.Argument(help="Pictures to look at.")] = None,
    source: Annotated[
        str | None, typer.Option("--video", help="0, cam0, /dev/video0, file, URL or folder.")
    ] = None,
    gallery: GalleryOption = None,
    out: Annotated[Path | None, typer.Option(help="Write an overlay video (.mp4).")] = None,
    display: Annotated[bool, typer.Option(help="Show the overlay in a window.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Process each n-th frame only.")] = 1,
    retries: Annotated[int | None, typer.Option(help="Reconnects; default for ever.")] = None,
    threshold: Limit = None,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """Say who is in a video (events) or in pictures (one line per face)."""
    if (source is None) == (not pictures):
        raise typer.BadParameter("give either pictures or --video SOURCE")
    with _open(
        gallery, model=model, runtime=runtime, threads=threads, threshold=threshold
    ) as identifier:
        if source is None:
            rows = [
                {"picture": p, **s.to_dict()}
                for p in pictures or []
                for s in identifier.identify(p)
            ]
            _print(rows, as_json, columns=("picture", "status", "name", "similarity", "box"))
        else:
            _watch(identifier, source, out, display, every, retries, as_json)


@app.command()
def verify(
    a: Path,
    b: Path,
    threshold: Limit = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when different.")] = False,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """Compare the largest faces of two pictures."""
    with _open(
        None, model=model, runtime=runtime, threads=threads, threshold=threshold
    ) as identifier:
        result = identifier.verify(a, b)
    row = {
        "same": result.same,
        "similarity": round(result.similarity, 4),
        "threshold": result.threshold.value,
        "threshold_origin": result.threshold.origin,
    }
    _print([row], as_json)
    if exit_code and not result.same:
        raise typer.Exit(1)


@people.command("list")
def list_people(gallery: GalleryFile, as_json: Json = False) -> None:
    """List the people of a gallery."""
    with _store(gallery) as store:
        rows = [
            {"person_id": p.id, "name": p.name, "kind": str(p.kind), "samples": p.n_samples}
            for p in store.people()
        ]
    _print(rows, as_json)


@people.command()
def rename(gallery: GalleryFile, name: str, new: str) -> None:
    """Give a person another name; the id stays."""
    with _store(gallery) as store:
        store.rename(name, new)


@people.command()
def merge(gallery: GalleryFile, into: str, other: str) -> None:
    """Give the samples of OTHER to INTO; OTHER is gone."""
    with _store(gallery) as store:
        store.merge(into, other)


@people.command()
def forget(gallery: GalleryFile, name: str) -> None:
    """Erase a person, the bytes in the file included."""
    with _store(gallery) as store:
        store.forget(name)


@people.command("export")
def export_people(gallery: GalleryFile, file: Path) -> None:
    """Write all people and embeddings to FILE.npz or FILE.parquet."""
    with _store(gallery) as store:
        write = store.export_parquet if _is_parquet(file) else store.export_npz
        print(f"edgeface: {write(file)} samples written to {file}", file=sys.stderr)


@people.command("import")
def import_people(gallery: GalleryFile, file: Path, model: Embedding = "mobilefacenet") -> None:
    """Add the people of an exported file."""
    from edgeface.gallery import Gallery
    from edgeface.models import load_card

    card = load_card(model, "embedding")
    with Gallery.open(gallery, model=card.digest, size=card.size) as store:
        read = store.import_parquet if _is_parquet(file) else store.import_npz
        print(f"edgeface: {read(file)} samples read from {file}", file=sys.stderr)


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models that can be used by name."""
    from edgeface.models import cards

    rows = [
        {
            "name": c.name,
            "task": c.task,
            "mb": round(c.path.stat().st_size / 1e6, 2) if c.path.exists() else None,
            "threshold": c.threshold.value,
            "sha256": c.digest[:12],
            "license": c.raw.get("license", ""),
        }
        for c in cards()
    ]
    _print(rows, as_json)


@models.command("verify")
def verify_models(as_json: Json = False) -> None:
    """Compare every model file with the digest in its card."""
    from edgeface.models import cards, digest

    rows = []
    for card in cards():
        state = "missing"
        if card.path.is_file():
            state = "ok" if digest(card.path) == card.digest else "damaged"
        rows.append({"name": card.name, "file": str(card.path), "state": state})
    _print(rows, as_json)
    if any(r["state"] != "ok" for r in rows):
        raise ModelError("a model file does not fit its card; reinstall edgeface or that model")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Report what this machine offers and what is known to go wrong on it."""
    from edgeface.doctor import checks

    rows = [{"check": c.name, "state": c.state, "detail": c.detail} for c in checks()]
    _print(rows, as_json)
    if any(r["state"] == "bad" for r in rows):
        raise typer.Exit(2)


def _is_parquet(file: Path) -> bool:
    if file.suffix not in {".npz", ".parquet"}:
        raise typer.BadParameter(f"{file} must end in .npz or .parquet")
    return file.suffix == ".parquet"


def _groups(what: list[str]) -> list[tuple[str, list[Path]]]:
    """NAME IMAGE… or a folder of folders, as (name, files) pairs."""
    from edgeface.images import SUFFIXES

    if len(what) > 1:
        return [(what[0], [Path(p) for p in what[1:]])]
    folder = Path(what[0])
    if not folder.is_dir():
        raise typer.BadParameter(f"{what[0]!r} is no folder; give NAME IMAGE… or people/NAME/*.jpg")
    groups = []
    for person in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = sorted(f for f in person.iterdir() if f.suffix.lower() in SUFFIXES)
        if files:
            groups.append((person.name, files))
    if not groups:
        raise typer.BadParameter(f"{folder} holds no NAME/*.jpg folders")
    return groups


@contextmanager
def _open(gallery: Path | None, **options: Any) -> Iterator[Identifier]:
    """An identifier over the gallery, or over an empty temporary one when none is named."""
    import tempfile

    from edgeface.identify import Identifier

    with ExitStack() as stack:
        if gallery is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            gallery = Path(folder) / "empty.gallery"
        yield stack.enter_context(Identifier.open(gallery, **options))


def _store(gallery: Path) -> Any:
    """The gallery as it is, whatever model made it."""
    from edgeface.gallery import Gallery

    return Gallery.open(gallery, create=False)


def _watch(
    identifier: Identifier,
    source: str,
    out: Path | None,
    display: bool,
    every: int,
    retries: int | None,
    as_json: bool,
) -> None:
    from edgeface import draw, video

    lines = as_json or not sys.stdout.isatty()
    fps = 1.0 if video.is_live(source) else video.rate(source)
    total = video.length(source) // every
    with ExitStack() as stack:
        writer = stack.enter_context(draw.OverlayWriter(out, fps / every)) if out else None
        bar = stack.enter_context(_bar(total))

        def on_frame(frame: Frame, sightings: list[Sighting]) -> None:
            if writer is not None or display:
                picture = draw.overlay(frame.image, sightings)
                if writer is not None:
                    writer.write(picture)
                if display:
                    draw.show(picture)
            bar.update(1)

        live = video.LiveOptions(retries=retries)
        for event in identifier.watch(source, every=every, live=live, on_frame=on_frame):
            print(event.to_json() if lines else _sentence(event), flush=True)


def _sentence(event: Event) -> str:
    d = event.decision
    who = d.name or str(d.status).replace("_", " ")
    number = (
        f"{d.similarity:.2f} (needs {d.threshold.value:.2f})"
        if d.similarity == d.similarity
        else ""
    )
    return f"{event.time:8.2f} s  track {event.track:<4} {event.kind:<11} {who:<24} {number}"


def _bar(total: int) -> Any:
    """A progress bar on stderr; silent when stderr is no terminal."""
    return typer.progressbar(
        length=total or None, label="frames", file=sys.stderr, hidden=not sys.stderr.isatty()
    )


def _progress(items: Sequence[Any], label: str) -> Iterator[Any]:
    with typer.progressbar(
        items, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        yield from bar


def _print(rows: list[dict[str, Any]], as_json: bool, columns: Sequence[str] = ()) -> None:
    """Rows as JSON lines on a pipe or on demand, as an aligned table on a terminal."""
    if as_json or not sys.stdout.isatty():
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    names = list(columns or (rows[0] if rows else ()))
    cells = [names, *[["" if r[n] is None else str(r[n]) for n in names] for r in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
