"""Arguments and options that several verbs have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.errors import ArgumentError, GalleryError, ImageError

if TYPE_CHECKING:
    from edgeface.identify import Identifier

# Threads beyond those of any machine only take memory, some 24 kB each and more for their stacks.
MOST_THREADS = 256

# Text, not a path: it may be the address of a server, whose slashes a path would swallow.
NewGallery = Annotated[str, typer.Argument(help="Gallery file, made if missing, or postgresql://…")]
GalleryFile = Annotated[str, typer.Argument(help="Gallery file or postgresql://…")]
GalleryOption = Annotated[
    str | None, typer.Option("--gallery", "-g", help="Gallery file or postgresql://…")
]
Threads = Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="Threads of each network.")]
SIDE = 640  # `detect.MAX_SIDE`, which takes long to import
MaxSide = Annotated[
    int, typer.Option("--max-side", min=32, help="Pixels larger pictures are scaled down to.")
]
RuntimeOption = Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")]
Embedding = Annotated[str, typer.Option("--model", help="Embedder: a name or a model file.")]
Policy = Annotated[str, typer.Option("--faces", help="require_one, largest or skip.")]
AcceptPoor = Annotated[
    bool, typer.Option("--accept-poor", help="Also faces too blurred, small, dark or covered.")
]
Limit = Annotated[
    float | None, typer.Option("--threshold", min=-1, max=1, help="Least cosine of a match.")
]


def existing(gallery: str) -> str:
    """The gallery, which must be there: a misspelt name must not become an empty gallery.

    Raises:
        ArgumentError: there is no such file.
    """
    if "://" not in gallery and not os.path.lexists(gallery):
        raise ArgumentError(
            f"there is no gallery {gallery}; check the spelling, or make it with: "
            "edgeface enroll GALLERY NAME PICTURE…"
        )
    return gallery


def seconds(span: str, option: str) -> float:
    """A span of time such as 30d, in seconds; `option` is named in the error."""
    units = {"h": 3600, "d": 86400, "w": 604800}
    found = re.fullmatch(r"(\d{1,6})([hdw])", span.strip().lower())
    if found is None:
        raise ArgumentError(f"{option} is {span!r}; use hours, days or weeks: 12h, 30d, 2w")
    return float(found[1]) * units[found[2]]


def check_faces(policy: str) -> None:
    """ArgumentError unless there is such a rule for pictures with several faces."""
    if policy not in {"require_one", "largest", "skip"}:
        raise ArgumentError(f"--faces is {policy!r}; use require_one, largest or skip")


def check_person(name: str) -> None:
    """Refuse a name for itself alone, so that the other people are enrolled."""
    from edgeface.gallery.records import check_name

    try:
        check_name(name)
    except GalleryError as error:
        raise ImageError(f"nobody is enrolled here: {error}") from error


@contextmanager
def opened(gallery: str | None, **options: Any) -> Iterator[Identifier]:
    """An identifier over the gallery, or over an empty temporary one when none is named."""
    import tempfile

    from edgeface.identify import Identifier

    options["embedder"] = options.pop("model")
    with ExitStack() as stack:
        if gallery is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            gallery = str(Path(folder) / "empty.gallery")
        yield stack.enter_context(Identifier.open(gallery, **options))
