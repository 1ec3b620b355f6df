"""Overlays: boxes and names on frames, shown in a window or saved as a picture."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeface.errors import OutputError
from edgeface.opencv import cv2
from edgeface.types import Image, Sighting, Status

# BGR, readable on both dark and light pictures.
COLOURS = {
    Status.MATCH: (80, 175, 76),
    Status.STRANGER: (190, 130, 60),
    Status.IGNORED: (150, 150, 150),
    Status.UNCERTAIN: (0, 170, 255),
    Status.UNKNOWN: (90, 90, 200),
    Status.LOW_QUALITY: (140, 140, 140),
}


def overlay(image: Image, sightings: Sequence[Sighting]) -> Image:
    """A copy of `image` (H, W, 3) uint8 BGR with a labelled box per sighting."""
    canvas = image.copy()
    line = max(1, round(min(image.shape[:2]) / 360))
    for sighting in sightings:
        colour = COLOURS[sighting.decision.status]
        x1, y1, x2, y2 = (round(float(v)) for v in sighting.face.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line, cv2.LINE_AA)
        _label(canvas, _text(sighting), (x1, y1), y2 - y1, colour)
    return canvas


def _text(sighting: Sighting) -> str:
    decision = sighting.decision
    who = decision.name if decision.name is not None else str(decision.status).replace("_", " ")
    number = f" {decision.similarity:.2f}" if np.isfinite(decision.similarity) else ""
    track = f"#{sighting.track} " if sighting.track is not None else ""
    return f"{track}{who}{number}"


def _label(
    canvas: Image, text: str, corner: tuple[int, int], height: int, colour: tuple[int, int, int]
) -> None:
    """Text on a filled bar above the box, or inside it where the frame ends."""
    scale = float(np.clip(height / 180, 0.4, 1.2))
    # OpenCV's built-in fonts know ASCII only; what they lack is shown as a question mark.
    shown = text.encode("ascii", "replace").decode()
    (width, tall), base = cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width - 4)))
    y = corner[1] if corner[1] - tall - base - 2 >= 0 else corner[1] + tall + base + 2
    cv2.rectangle(canvas, (x, y - tall - base - 2), (x + width + 4, y), colour, cv2.FILLED)
    white, at = (255, 255, 255), (x + 2, y - base)
    cv2.putText(canvas, shown, at, cv2.FONT_HERSHEY_SIMPLEX, scale, white, 1, cv2.LINE_AA)


def sheet(pictures: Sequence[Image], side: int = 128) -> Image:
    """Pictures (H, W, 3) uint8 BGR side by side, each fitted into a square of `side` px, in a grid
    that is about as wide as it is high."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // max(1, columns))
    canvas = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        ratio = side / max(picture.shape[:2])
        size = [max(1, round(n * ratio)) for n in picture.shape[1::-1]]
        top, left = i // columns * side, i % columns * side
        canvas[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size)
    return canvas


def check_display() -> None:
    """Try a window, in another process: without a display Qt ends the one that asks.

    Raises:
        OutputError: there is no display, or OpenCV was built without windows.
    """
    code = "import cv2; cv2.namedWindow('edgeface'); cv2.waitKey(1)"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if tried.returncode:
        raise OutputError(
            "no window can be opened here: that needs a display and an OpenCV with windows "
            "(edgeface[gui]); write the overlay to a file instead"
        )


def show(image: Image) -> bool:
    """Show a frame in a window; False once q was pressed there.

    Raises:
        OutputError: there is no display, or OpenCV was built without windows.
    """
    try:
        cv2.imshow("edgeface", image)
        return cv2.waitKey(1) & 0xFF != ord("q")
    except cv2.error as error:
        raise OutputError("this OpenCV build cannot open windows; install edgeface[gui]") from error


def save(path: str | Path, image: Image) -> None:
    """Write a picture; the suffix says how.

    Raises:
        OutputError: it cannot be written there, or not in that format.
    """
    path = Path(path)
    try:
        done, data = cv2.imencode(path.suffix or ".png", image)
    except cv2.error:
        done = False
    if not done:
        raise OutputError(f"{path} has no suffix of a picture; use .png or .jpg")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
