"""Where a picture of a fixed camera differs from what was looked at before.

Pictures are compared as small gray ones, cell by cell, each cell with its state when it was last
looked at: what changes too slowly to be seen from frame to frame adds up until it counts. What
changes everywhere alike (an exposure, a lamp) and what the sensor's noise makes is not motion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeface.opencv import cv2
from edgeface.types import Array, Image

Cells = NDArray[np.bool_]

POINT = 4  # px of the scaled frame that one point of the thumbnail stands for
CELL = 8  # points along a side of a cell, so 32 px: what the detectors' inputs are multiples of
# Gray levels of a blurred point from which it moved: `LEAST` on a clean picture, above the pulses
# of a video codec; `NOISY` deviations of the noise; never more than `MOST`, above which a face in
# poor light could come unnoticed: a picture as noisy as that is looked at as a whole.
LEAST, NOISY, MOST = 4.0, 6.0, 10.0
GAIN = 1.3  # by which a picture as a whole may be brighter or darker and be the same
FALL, RISE = 0.9, 1.05  # by which the noise that is assumed may change from frame to frame


def thumbnail(image: Image, ratio: float) -> Image:
    """The picture of which one pixel is `POINT` px of `image` (H, W, 3) scaled by `ratio`."""
    height, width = (max(1, round(n * ratio / POINT)) for n in image.shape[:2])
    # Bilinear sampling reads 16 px a point however large the image is, an average reads them all.
    double = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(double, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


class Motion:
    """Compares the thumbnails of one size with what each cell looked like when last looked at."""

    def __init__(self, small: Image) -> None:
        self.points = small.shape[:2]
        self.cells = tuple(-(-n // CELL) for n in self.points)
        self._seen = self._now = _gray(small)
        self._noise = MOST / NOISY

    def __call__(self, small: Image) -> Cells:
        """The cells (rows, columns) of a thumbnail (h, w, 3) in which something changed."""
        self._now = now = _gray(small)
        ratios = (now[::4, ::4] + 8) / (self._seen[::4, ::4] + 8)
        gain = min(max(float(np.median(ratios)), 1 / GAIN), GAIN)
        rows, columns = self.cells
        change = np.zeros((rows * CELL, columns * CELL), np.float32)
        inner = change[: self.points[0], : self.points[1]]
        np.abs(cv2.blur(now - np.float32(gain) * self._seen, (3, 3)), out=inner)
        noise = 1.4826 * float(np.median(inner[::4, ::4]))
        self._noise = min(max(noise, FALL * self._noise), RISE * self._noise + 0.01)
        limit = min(max(LEAST, NOISY * self._noise), MOST)
        peaks = change.reshape(rows, CELL, -1).max(1).reshape(rows, columns, CELL).max(2)
        return np.asarray(peaks > limit)

    def look(self, cells: Cells) -> None:
        """Take these cells as looked at in the last thumbnail that was compared."""
        points = np.repeat(np.repeat(cells, CELL, 0), CELL, 1)[: self.points[0], : self.points[1]]
        self._seen = np.where(points, self._now, self._seen)


def _gray(small: Image) -> Array:
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.float32)
