"""The verbs that look at pictures and video."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.output import Json, as_lines, emit, print_rows

if TYPE_CHECKING:
    from edgeface.identify import Identifier
    from edgeface.types import Event, Frame, Sighting

LIVE_FPS = 10.0  # of the overlay file of a source that has no rate of its own
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

# Text, not a path: it may be the address of a server, whose slashes a path would swallow.
GalleryFile = Annotated[
    str, typer.Argument(help="Gallery file, made if missing, or postgresql://…")
]
GalleryOption = Annotated[
    str | None, typer.Option("--gallery", "-g", help="File or postgresql://…")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each network.")]
RuntimeOption = Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")]
Embedding = Annotated[str, typer.Option("--model", help="Embedder: a name or a model file.")]
Limit = Annotated[float | None, typer.Option("--threshold", help="Least cosine of a match.")]


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
    print_rows(rows, as_json)


@app.command()
def identify(
    pictures: Annotated[list[str] | None, typer.Argument(help="Pictures to look at.")] = None,
    source: Annotated[
        str | None, typer.Option("--video", help="0, cam0, /dev/video0, file, URL or folder.")
    ] = None,
    gallery: GalleryOption = None,
    out: Annotated[Path | None, typer.Option(help="Write an overlay video (.mp4).")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw similarities and weights per track (.png).")
    ] = None,
    display: Annotated[bool, typer.Option(help="Show the overlay in a window.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Process each n-th frame only.")] = 1,
    retries: Annotated[int | None, typer.Option(help="Reconnects; default for ever.")] = None,
    threshold: Limit = None,
    learn: Annotated[
        bool, typer.Option(help="Let the gallery learn: strangers become numbered people.")
    ] = False,
    submodels: Annotated[
        Path | None, typer.Option(help="Submodel bank for faces the gallery does not know.")
    ] = None,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """Say who is in a video (events) or in pictures (one line per face)."""
    if (source is None) == (not pictures):
        raise typer.BadParameter("give either pictures or --video SOURCE")
    options = {"model": model, "runtime": runtime, "threads": threads, "threshold": threshold}
    with _open(gallery, learn=learn, submodels=submodels, **options) as identifier:
        if source is None:
            rows = [
                {"picture": p, **s.to_dict()}
                for p in pictures or []
                for s in identifier.identify(p)
            ]
            print_rows(rows, as_json, columns=("picture", "status", "name", "similarity", "box"))
        else:
            _watch(identifier, source, out, plot, display, every, retries, as_json)


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
    print_rows([row], as_json)
    if exit_code and not result.same:
        raise typer.Exit(1)


@app.command()
def calibrate(
    gallery: GalleryFile,
    cohort: Annotated[
        Path | None,
        typer.Argument(
            help="Folder: one picture per person not enrolled. Default: a model of them."
        ),
    ] = None,
    fpir: Annotated[float, typer.Option(help="How often a stranger may be named.")] = 1e-2,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    as_json: Json = False,
) -> None:
    """Set the gallery's threshold by a false-positive identification rate (FPIR)."""
    from edgeface.images import SUFFIXES

    pictures = None
    if cohort is not None:
        found = sorted(p for p in cohort.rglob("*") if p.suffix.lower() in SUFFIXES)
        pictures = list(_progress(found, "looking"))
    with _open(gallery, model=model, runtime=runtime, threads=threads) as identifier:
        result = identifier.calibrate(pictures, fpir=fpir)
    row = {
        "threshold": round(result.value, 4),
        "origin": result.threshold.origin,
        "impostors": result.trials,
        "fpir": round(result.measured.value, 6),
        "fpir_low": round(result.measured.low, 6),
        "fpir_high": round(result.measured.high, 6),
    }
    print_rows([row], as_json)


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
def _open(gallery: str | None, **options: Any) -> Iterator[Identifier]:
    """An identifier over the gallery, or over an empty temporary one when none is named."""
    import tempfile

    from edgeface.identify import Identifier

    options["embedder"] = options.pop("model")
    with ExitStack() as stack:
        if gallery is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            gallery = str(Path(folder) / "empty.gallery")
        yield stack.enter_context(Identifier.open(gallery, **options))


def _watch(
    identifier: Identifier,
    source: str,
    out: Path | None,
    plot: Path | None,
    display: bool,
    every: int,
    retries: int | None,
    as_json: bool,
) -> None:
    from edgeface import draw, video
    from edgeface.plot import plot as draw_curves
    from edgeface.trace import Trace

    lines = as_lines(as_json)
    live = video.is_live(source)
    fps = LIVE_FPS if live else video.rate(source)
    with ExitStack() as stack:
        writer = stack.enter_context(draw.OverlayWriter(out, fps)) if out else None
        bar = stack.enter_context(_bar(video.length(source) // every))
        if live:  # a camera has no end of its own: Ctrl-C is how a watch is finished
            stack.enter_context(suppress(KeyboardInterrupt))

        def on_frame(frame: Frame, sightings: list[Sighting]) -> None:
            if writer is not None or display:
                picture = draw.overlay(frame.image, sightings)
                if writer is not None:
                    writer.write(picture, frame.time)
                if display:
                    draw.show(picture)
            bar.update(1)

        trace = Trace() if plot is not None else None
        if plot is not None and trace is not None:  # whatever ends the watch
            stack.callback(lambda: draw.save(plot, draw_curves(identifier.explain(trace))))
        options = video.LiveOptions(retries=retries)
        events = identifier.watch(source, every=every, live=options, on_frame=on_frame, trace=trace)
        for event in events:
            emit(event.to_json() if lines else _sentence(event))


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
    """A progress bar on stderr; silent without a terminal or a known end."""
    hidden = total <= 0 or not sys.stderr.isatty()
    return typer.progressbar(length=max(total, 1), label="frames", file=sys.stderr, hidden=hidden)


def _progress(items: Sequence[Any], label: str) -> Iterator[Any]:
    with typer.progressbar(
        items, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:
        yield from bar
