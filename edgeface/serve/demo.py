"""The sample clip as a camera, before a gallery that knows one of the two people in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeface.cameras import CameraSpec
from edgeface.errors import DataError
from edgeface.identify import Identifier

PERSON = "Eileen Collins"


def sample() -> Path:
    """The folder of the sample: in the package when installed, in the examples of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "sample", package.parent / "examples" / "sample"):
        if (folder / "clip.mp4").is_file():
            return folder
    raise DataError(f"the sample clip is not in {package / 'sample'}: install edgeface again")


@contextmanager
def prepared(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings for the demonstration: its camera among those `given`, and a gallery that is gone
    afterwards, if none is given."""
    folder = sample()
    cameras = [*given.get("cameras", ()), CameraSpec("demo", str(folder / "clip.mp4"), repeat=True)]
    with tempfile.TemporaryDirectory(prefix="edgeface-demo-", ignore_cleanup_errors=True) as place:
        gallery = given.get("gallery") or str(Path(place) / "demo.gallery")
        with Identifier.open(gallery) as identifier:
            if PERSON not in {p.name for p in identifier.gallery.people()}:
                identifier.enroll(PERSON, [folder / "eileen.jpg"])
        yield {"gallery": gallery, "cameras": cameras}
