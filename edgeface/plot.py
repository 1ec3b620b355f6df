"""A picture of what a track's faces said: how similar each was, what it weighed, and how similar
their template became over time, with the plain average of the same faces beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeface.opencv import cv2
from edgeface.types import Array, Image

WIDTH, HEIGHT = 960, 240  # of the panel of one track
PANELS, STRIP = 40, 40  # most panels; height of the strip that counts the other tracks
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 30  # margins
LOWEST, HIGHEST = -0.2, 1.0  # of the similarity axis
BLACK, GREY, LIGHT = (40, 40, 40), (150, 150, 150), (225, 225, 225)
FACE, FUSED, LIMIT = (200, 140, 60), (60, 60, 210), (80, 160, 80)  # BGR
AVERAGE = (160, 60, 160)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One track against one person: per face `times` (n,) s, `similarities` (n,), `shares` (n,) in
    the last template, sum 1, and `fused` (n,), the similarity of the template so far."""

    title: str
    times: Array
    similarities: Array
    shares: Array
    fused: Array
    average: Array
    threshold: float
    named: bool = False  # whether the track ended with a name


def plot(curves: Sequence[Curve], *, left_out: int = 0) -> Image:
    """Panels (240 n, 960, 3) uint8 BGR, one under the other, of at most `PANELS` tracks: those with
    a name first, then the longest, in the order given. A strip of 40 px at the end counts the
    others and `left_out`, which are not among the curves. An empty panel for no curves."""
    if not curves:
        empty = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        _text(empty, "no track had a face good enough to go by", (LEFT, HEIGHT // 2), BLACK)
        return empty
    weighed = sorted(range(len(curves)), key=lambda i: (not curves[i].named, -_seconds(curves[i])))
    shown = [_panel(curves[i]) for i in sorted(weighed[:PANELS])]
    others = left_out + len(curves) - len(shown)
    if others:
        strip = np.full((STRIP, WIDTH, 3), 255, np.uint8)
        _text(strip, f"and {others} more tracks, shorter or without a name", (LEFT, 24), BLACK)
        shown.append(strip)
    return np.concatenate(shown)


def _seconds(curve: Curve) -> float:
    return float(curve.times[-1] - curve.times[0])


def _panel(curve: Curve) -> Image:
    panel = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    begin, end = float(curve.times[0]), max(float(curve.times[-1]), float(curve.times[0]) + 1e-3)
    x = LEFT + (curve.times - begin) / (end - begin) * (WIDTH - LEFT - RIGHT)
    for level in np.arange(0.0, HIGHEST + 0.01, 0.2):
        y = _y(float(level))
        cv2.line(panel, (LEFT, y), (WIDTH - RIGHT, y), LIGHT, 1)
        _text(panel, f"{level:.1f}", (14, y + 4), GREY)
    limit = _y(curve.threshold)
    for start in range(LEFT, WIDTH - RIGHT, 12):
        cv2.line(panel, (start, limit), (start + 6, limit), LIMIT, 1, cv2.LINE_AA)
    _text(panel, f"{curve.threshold:.2f}", (WIDTH - RIGHT - 34, limit - 4), LIMIT)
    tallest = max(float(curve.shares.max()), 1e-9)
    for place, share in zip(x, curve.shares, strict=True):
        tall = max(0, round(float(share) / tallest * 0.3 * (HEIGHT - TOP - BOTTOM)))
        at = round(float(place))
        cv2.line(panel, (at, HEIGHT - BOTTOM), (at, HEIGHT - BOTTOM - tall), LIGHT, 3)
    for place, similarity in zip(x, curve.similarities, strict=True):
        centre = (round(float(place)), _y(float(similarity)))
        cv2.circle(panel, centre, 2, FACE, cv2.FILLED, cv2.LINE_AA)
    for values, colour, wide in ((curve.average, AVERAGE, 1), (curve.fused, FUSED, 2)):
        line = np.stack([np.round(x), [_y(float(s)) for s in values]], axis=1).astype(np.int32)
        cv2.polylines(panel, [line[:, None]], False, colour, wide, cv2.LINE_AA)
        cv2.circle(panel, (int(line[-1, 0]), int(line[-1, 1])), 3, colour, cv2.FILLED, cv2.LINE_AA)
    _text(panel, curve.title, (LEFT, 20), BLACK)
    legend = (("faces", FACE, 280), ("template", FUSED, 222), ("average", AVERAGE, 142))
    for text, colour, back in (*legend, ("share", GREY, 70)):
        _text(panel, text, (WIDTH - RIGHT - back, 20), colour)
    _text(panel, clock(begin), (LEFT, HEIGHT - 10), GREY)
    _text(panel, clock(end), (WIDTH - RIGHT - 62, HEIGHT - 10), GREY)
    return panel


def clock(seconds: float) -> str:
    """A time on the axis: `12.5 s` below a minute, `1:02:03` from there on."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _y(similarity: float) -> int:
    share = (np.clip(similarity, LOWEST, HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
    return round(float(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)))


def _text(panel: Image, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    # OpenCV's built-in fonts know ASCII only; what they lack is shown as a question mark.
    shown = text.encode("ascii", "replace").decode()
    cv2.putText(panel, shown, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
