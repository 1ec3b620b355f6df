"""What people wear and how they look, drawn on labelled faces: dark skin and shade, sunglasses,
masks, hands and other things in front, a lens out of focus. The labels stay as they are: the
network is to see through it."""

from __future__ import annotations

import cv2
import numpy as np

from export.scenes import Floats, Image, Picture, Rng

SMALLEST = 14.0  # px between the eyes below which nothing is drawn
SHARE = 0.22  # of faces get something before them


def disguise(picture: Picture, rng: Rng) -> Image:
    """A copy of the picture's image with some of its faces changed."""
    image = picture.image.copy()
    for box, points in zip(picture.boxes, picture.points, strict=True):
        if not np.isfinite(points).all() or np.linalg.norm(points[1] - points[0]) < SMALLEST:
            continue
        if rng.random() < 0.15:
            darken_skin(image, box, rng)
        if rng.random() < SHARE:
            (sunglasses, mask, patch)[rng.integers(3)](image, points, rng)
        if rng.random() < 0.1:
            defocus(image, box, rng)
    return image


def darken_skin(image: Image, box: Floats, rng: Rng) -> None:
    """A face and what is around it, softly darker and warmer, drawn on `image`."""
    part, weight = around(image, box)
    tone = np.exp(rng.uniform(*np.log((0.12, 0.8)))) * np.array([0.85, 0.95, 1.05], np.float32)
    part[:] = np.clip(part * (1 + weight * (tone - 1)), 0, 255).astype(np.uint8)


def defocus(image: Image, box: Floats, rng: Rng) -> None:
    """A face and what is around it, softly blurred by up to a sixteenth of its side."""
    part, weight = around(image, box)
    if part.size:
        side = float(np.sqrt(np.prod(box[2:] - box[:2])))
        blurred = cv2.GaussianBlur(part, (0, 0), side * rng.uniform(0.015, 0.06))
        part[:] = (part + weight * (blurred.astype(np.float32) - part)).astype(np.uint8)


def around(image: Image, box: Floats) -> tuple[Image, Floats]:
    """The part of `image` a third wider and taller than a box, a view, and a weight (h, w, 1) that
    falls from 1 in the ellipse of the box to 0."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    low = np.clip(middle - 1.35 * half, 0, None).astype(int)
    part = image[low[1] : int(middle[1] + 1.35 * half[1]), low[0] : int(middle[0] + 1.35 * half[0])]
    y, x = np.ogrid[: part.shape[0], : part.shape[1]]
    distance = ((x + low[0] - middle[0]) / half[0]) ** 2 + ((y + low[1] - middle[1]) / half[1]) ** 2
    return part, np.clip(1.8 - distance, 0, 1)[..., None].astype(np.float32)


def sunglasses(image: Image, points: Floats, rng: Rng) -> None:
    """Two dark lenses and a bridge, drawn on `image`."""
    left, right = points[0], points[1]
    apart = float(np.linalg.norm(right - left))
    angle = float(np.degrees(np.arctan2(*(right - left)[::-1])))
    colour = tuple(int(v) for v in rng.integers(0, 70, 3))
    axes = (int(apart * rng.uniform(0.3, 0.44)), int(apart * rng.uniform(0.22, 0.36)))
    for eye in (left, right):
        centre = (int(eye[0]), int(eye[1]))
        cv2.ellipse(image, centre, axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
    ends = [tuple(int(v) for v in eye) for eye in (left, right)]
    cv2.line(image, ends[0], ends[1], colour, max(1, int(apart * 0.08)), cv2.LINE_AA)


def mask(image: Image, points: Floats, rng: Rng) -> None:
    """A surgical mask from the bridge of the nose to below the chin, drawn on `image`."""
    eyes, mouth = (points[0] + points[1]) / 2, (points[3] + points[4]) / 2
    down, across = mouth - eyes, (points[1] - points[0] + points[4] - points[3]) / 2
    top = points[2] - down * rng.uniform(0.15, 0.4)
    wide = across * rng.uniform(0.8, 1.05)
    chin = mouth + down * rng.uniform(0.5, 0.8)
    edge = [
        top, points[2] + wide - down * 0.1, mouth + wide * 0.9 + down * 0.25, chin + wide * 0.35,
        chin - wide * 0.35, mouth - wide * 0.9 + down * 0.25, points[2] - wide - down * 0.1,
    ]  # fmt: skip
    pale = rng.random() < 0.6
    colour = rng.integers(150, 256, 3) if pale else rng.integers(0, 256, 3)
    polygon = np.round(np.stack(edge)).astype(np.int32)
    cv2.fillPoly(image, [polygon], tuple(int(v) for v in colour), cv2.LINE_AA)


def patch(image: Image, points: Floats, rng: Rng) -> None:
    """A part of the same picture, a hand or a microphone as good as another, drawn on `image`."""
    h, w = image.shape[:2]
    apart = float(np.linalg.norm(points[1] - points[0]))
    height, width = (max(2, int(apart * v)) for v in rng.uniform(0.4, 1.3, 2))
    height, width = min(height, h), min(width, w)
    middle = points.mean(0) + rng.normal(0, 0.6, 2) * apart
    y, x = (int(v) for v in rng.integers(0, [h - height + 1, w - width + 1]))
    source = image[y : y + height, x : x + width].copy()
    to_x, to_y = (int(v) for v in middle - [width / 2, height / 2])
    to_x, to_y = min(max(to_x, 0), w - width), min(max(to_y, 0), h - height)
    image[to_y : to_y + height, to_x : to_x + width] = source
