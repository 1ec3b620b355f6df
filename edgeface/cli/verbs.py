"""The verbs that enrol people, compare pictures and set the threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.failures import Passed
from edgeface.cli.options import (
    SIDE,
    AcceptPoor,
    Embedding,
    GalleryFile,
    Limit,
    MaxSide,
    NewGallery,
    Policy,
    RuntimeOption,
    Threads,
    check_faces,
    check_person,
    existing,
    opened,
)
from edgeface.cli.output import Json, print_rows, say, say_passed
from edgeface.cli.pairs import judge_list
from edgeface.cli.progress import Progress, each
from edgeface.errors import ArgumentError, ImageError


def enroll(
    gallery: NewGallery,
    what: Annotated[list[str], typer.Argument(help="NAME IMAGE…, or a folder people/NAME/*.jpg")],
    faces: Policy = "require_one",
    accept_poor: AcceptPoor = False,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    max_side: MaxSide = SIDE,
    as_json: Json = False,
) -> None:
    """Add people to a gallery.

    One by name and pictures, or many from a folder with a folder of pictures for each.
    """
    check_faces(faces)
    groups = _groups(what)
    passed = Passed()
    options = {"model": model, "runtime": runtime, "threads": threads, "max_side": max_side}
    with opened(gallery, **options) as identifier, identifier.enrolling() as group:
        for name, files in each(groups, "people"):
            with passed.over(name):
                check_person(name)
                told = _skipped if faces == "skip" else passed.tell
                group.add(
                    name,
                    files,
                    policy=faces,  # type: ignore[arg-type]
                    accept_poor=accept_poor,
                    on_bad=told,
                )
    rows = [
        {"person_id": done.person.id, "name": done.person.name, "added": done.added}
        for done in group.done
    ]
    print_rows(rows, as_json)
    passed.finish()


def verify(
    a: Annotated[Path | None, typer.Argument(help="A picture.")] = None,
    b: Annotated[Path | None, typer.Argument(help="Another one.")] = None,
    threshold: Limit = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 when different.")] = False,
    pairs: Annotated[
        Path | None, typer.Option(help="A list instead: PICTURE PICTURE 1 or 0, a pair a line.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the list's pictures; default its own.")
    ] = None,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Leave out pairs of a file with itself.")
    ] = False,
    scores: Annotated[
        Path | None, typer.Option(help="Write the similarity of every pair (.csv).")
    ] = None,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    max_side: MaxSide = SIDE,
    as_json: Json = False,
) -> None:
    """Compare the largest faces of two pictures, or of every pair of a list."""
    from edgeface.describe import Describer
    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.identify import compare
    from edgeface.types import Threshold

    if pairs is None and (a is None or b is None):
        raise ArgumentError("give two pictures, or a list of pairs by --pairs")
    if pairs is not None and (a is not None or exit_code):
        raise ArgumentError("--pairs takes the place of two pictures and of --exit-code")
    if pairs is None and (root is not None or distinct or scores is not None):
        raise ArgumentError("--root, --distinct and --scores need --pairs")
    limit = None if threshold is None else Threshold(threshold, "user")
    detector = Detector.load(runtime=runtime, threads=threads, max_side=max_side)  # type: ignore[arg-type]
    embedder = Embedder.load(model, runtime=runtime, threads=threads)  # type: ignore[arg-type]
    describer = Describer(detector, embedder)
    if pairs is not None:
        judge_list(describer, pairs, root, limit, as_json, distinct=distinct, scores=scores)
        return
    assert a is not None and b is not None
    result = compare(describer, a, b, limit)
    row = {
        "same": result.same,
        "similarity": round(result.similarity, 4),
        "threshold": result.threshold.value,
        "threshold_origin": result.threshold.origin,
        "reason": None if result.reason is None else str(result.reason),
    }
    print_rows([row], as_json)
    if exit_code and not result.same:
        raise typer.Exit(1)


def calibrate(
    gallery: GalleryFile,
    cohort: Annotated[
        Path | None,
        typer.Argument(
            help="Folder: one picture per person not enrolled. Default: a model of them."
        ),
    ] = None,
    fpir: Annotated[
        float, typer.Option(help="How often a stranger may be named, between 0 and 1.")
    ] = 1e-2,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    max_side: MaxSide = SIDE,
    as_json: Json = False,
) -> None:
    """Set how often a gallery may name a stranger.

    That is the false-positive identification rate (FPIR); the gallery's threshold follows.
    """
    from edgeface.listing import pictures_in

    if not 0 < fpir < 1:
        raise ArgumentError(f"--fpir is {fpir:g}; it is a share, between 0 and 1")
    pictures = None
    if cohort is not None:
        if not cohort.is_dir():
            raise ArgumentError(f"{cohort} is no folder; give one picture per person in a folder")
        listing = pictures_in(cohort)
        say_passed(listing.passed.items())
        pictures = listing.pictures
    existing(gallery)
    passed = Passed()
    options = {"model": model, "runtime": runtime, "threads": threads, "max_side": max_side}
    with opened(gallery, **options) as identifier:
        before = identifier.threshold
        with Progress("comparing") as line:
            result = identifier.calibrate(pictures, fpir=fpir, progress=line.at, on_bad=passed.tell)
    say(f"the threshold was {before.value:.4f} ({before.origin}), now {result.value:.4f}")
    row = {
        "threshold": round(result.value, 4),
        "before": round(before.value, 4),
        "origin": result.threshold.origin,
        "impostors": result.trials,
        "fpir": round(result.measured.value, 6),
        "fpir_low": round(result.measured.low, 6),
        "fpir_high": round(result.measured.high, 6),
    }
    print_rows([row], as_json)
    passed.finish()


def _skipped(reason: ImageError) -> None:
    say(f"skipped: {reason}")


def _groups(what: list[str]) -> list[tuple[str, list[Path]]]:
    """NAME IMAGE… or a folder of folders, as (name, files) pairs."""
    from edgeface.listing import people_in

    if len(what) > 1:
        return [(what[0], [Path(p) for p in what[1:]])]
    folder = Path(what[0])
    if not folder.is_dir():
        raise ArgumentError(f"{what[0]!r} is no folder; give NAME IMAGE… or people/NAME/*.jpg")
    groups = []
    for person, listing in people_in(folder).items():
        say_passed(listing.passed.items())
        groups.append((person, list(listing.pictures)))
    if not groups:
        raise ArgumentError(f"{folder} holds no NAME/*.jpg folders")
    return groups
