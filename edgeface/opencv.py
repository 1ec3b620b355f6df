"""The one place where OpenCV is imported, with a limit on what its decoders allocate."""

from __future__ import annotations

import os

from edgeface.errors import DependencyError

MAX_PIXELS = 100_000_000
# A picture of 1 kB may claim to be 6 GB. edgeface reads headers itself (`edgeface.headers`); this
# stops what a decoder sees in a file and they do not. OpenCV reads it once, while it is loaded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

try:
    import cv2
except ImportError as error:
    raise DependencyError(
        "edgeface needs OpenCV and found no cv2 module; run: pip install 'edgeface[headless]'"
    ) from error

__all__ = ["MAX_PIXELS", "cv2"]
