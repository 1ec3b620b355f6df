"""Face identification that runs on a CPU at the edge: who is in front of the camera, offline.

import edgeface as ef

with ef.Identifier.open("office.gallery") as app:      # shipped models, made when missing
    app.enroll("Alice", ["alice1.jpg", "alice2.jpg"])
    for event in app.watch("cam0"):                    # 0, cam0, file, rtsp://, folder
        print(event.to_json())

detector, embedder = ef.Detector.load(), ef.Embedder.load()    # or the parts
faces = detector(image)                                # image: (H, W, 3) uint8 BGR
embeddings = embedder(ef.align(image, faces))          # (n, 128) float32 unit rows
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeface.alignment import align
    from edgeface.describe import Describer
    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.errors import EdgefaceError
    from edgeface.gallery import Gallery
    from edgeface.identify import Identifier
    from edgeface.settings import Settings
    from edgeface.types import (
        Decision,
        Event,
        Face,
        Frame,
        Match,
        Sighting,
        Status,
        Template,
        Threshold,
    )
    from edgeface.video import frames

_HOME = {
    "align": "alignment",
    "Describer": "describe",
    "Detector": "detect",
    "Embedder": "embed",
    "EdgefaceError": "errors",
    "Gallery": "gallery",
    "Identifier": "identify",
    "Settings": "settings",
    "frames": "video",
    "Decision": "types",
    "Event": "types",
    "Face": "types",
    "Frame": "types",
    "Match": "types",
    "Sighting": "types",
    "Status": "types",
    "Template": "types",
    "Threshold": "types",
}
__all__ = [
    "Decision",
    "Describer",
    "Detector",
    "EdgefaceError",
    "Embedder",
    "Event",
    "Face",
    "Frame",
    "Gallery",
    "Identifier",
    "Match",
    "Settings",
    "Sighting",
    "Status",
    "Template",
    "Threshold",
    "align",
    "frames",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `edgeface --help` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'edgeface' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgeface.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
