"""What spoils a picture of a face until nobody can say who it is, drawn on aligned crops.

Every flaw takes its strength in [0, 1], from hardly seen to hopeless, and a generator for the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.alignment import SIZE, TEMPLATE
from edgeface.types import Flaw
from export import disguise
from export.augment import light, noise

Image = NDArray[np.uint8]
Rng = np.random.Generator
Spoil = Callable[[Image, float, Rng], Image]


def blurred(image: Image, strength: float, rng: Rng) -> Image:
    """Out of focus: a Gaussian of up to 9 px."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.6 + 8.4 * strength), np.uint8)


def shaken(image: Image, strength: float, rng: Rng) -> Image:
    """Moved while the shutter was open: by up to 45 px."""
    length = 3 + round(42 * strength)
    turn = rng.uniform(0, np.pi)
    half = np.array([np.cos(turn), np.sin(turn)]) * (length - 1) / 2
    ends = [tuple(int(v) for v in np.round((length - 1) / 2 + sign * half)) for sign in (-1, 1)]
    kernel = np.zeros((length, length), np.float32)
    cv2.line(kernel, ends[0], ends[1], 1.0, 1)
    moved = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def small(image: Image, strength: float, rng: Rng) -> Image:
    """Taken from afar: 80 down to 7 px for the crop's side, and enlarged again."""
    side = round(80 * (7 / 80) ** strength)
    how = cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_LINEAR
    out = np.asarray(cv2.resize(image, (side, side), interpolation=how), np.uint8)
    if rng.random() < 0.4:
        out = packed(out, rng.uniform(0, 0.5), rng)
    enlarge = cv2.INTER_CUBIC if rng.random() < 0.4 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(out, (SIZE, SIZE), interpolation=enlarge), np.uint8)


def packed(image: Image, strength: float, rng: Rng) -> Image:
    """JPEG of quality 40 down to 1."""
    quality = max(1, round(40 * (1 / 40) ** strength))
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def dark(image: Image, strength: float, rng: Rng) -> Image:
    """A half down to a hundredth of the light, with a sensor's noise of one to four levels."""
    faint = image * (0.5 * 0.02**strength) + rng.standard_normal(image.shape) * rng.uniform(1, 4)
    return np.clip(faint, 0, 255).astype(np.uint8)


def bright(image: Image, strength: float, rng: Rng) -> Image:
    """Overexposed: 1.5 to 9 times the light."""
    return np.clip(image * (1.5 * 6.0**strength), 0, 255).astype(np.uint8)


def covered(image: Image, strength: float, rng: Rng) -> Image:
    """Behind a mask, dark glasses, both, or something held before the face; the larger the
    strength, the more of it."""
    out = image.copy()
    if strength < 0.25:
        disguise.sunglasses(out, TEMPLATE, rng)
    elif strength < 0.4:
        for _ in range(2):
            disguise.patch(out, TEMPLATE, rng)
    else:
        (mask if rng.random() < 0.5 else disguise.mask)(out, TEMPLATE, rng)
        if strength > 0.85:
            disguise.sunglasses(out, TEMPLATE, rng)
    return out


def mask(image: Image, points: NDArray[np.float32], rng: Rng) -> None:
    """A mask with folds and shade, drawn on `image`: white, blue, dark or coloured."""
    eyes, mouth = (points[0] + points[1]) / 2, (points[3] + points[4]) / 2
    down, across = mouth - eyes, (points[1] - points[0] + points[4] - points[3]) / 2
    top = points[2] - down * rng.uniform(0.0, 0.35)
    wide, chin = across * rng.uniform(0.85, 1.25), mouth + down * rng.uniform(0.45, 0.7)
    side = points[2] + down * rng.uniform(-0.25, 0.1)
    edge = [top, side + wide, mouth + wide * 0.8 + down * 0.2, chin + wide * 0.3]
    edge += [chin - wide * 0.3, mouth - wide * 0.8 + down * 0.2, side - wide]
    shape = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(shape, [np.round(np.stack(edge)).astype(np.int32)], 255, cv2.LINE_AA)
    colours = ((235, 235, 235), (200, 160, 90), (40, 40, 40), tuple(rng.uniform(0, 255, 3)))
    colour = np.array(colours[rng.integers(4)], np.float32)
    rows = np.arange(image.shape[0], dtype=np.float32)[:, None, None]
    folds = 1 + rng.uniform(0, 0.08) * np.sin(rows * rng.uniform(0.5, 1.5)) - 0.002 * (rows - 56)
    cloth = np.clip(colour * folds * rng.uniform(0.5, 1.05), 0, 255)
    weight = shape[..., None].astype(np.float32) / 255
    image[:] = np.round(image * (1 - weight) + cloth * weight).astype(np.uint8)


def askew(image: Image, strength: float, rng: Rng) -> Image:
    """Cut by landmarks that are wrong: turned by 15 to 110 degrees."""
    return _turned(image, (15 + 95 * strength) * rng.choice([-1, 1]))


def inverted(image: Image, strength: float, rng: Rng) -> Image:
    """Cut upside down, but for 60 to no degrees."""
    return _turned(image, 180 + 60 * (1 - strength) * rng.choice([-1, 1]))


def _turned(image: Image, angle: float) -> Image:
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), angle, 1.0)
    out = cv2.warpAffine(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, np.uint8)


def mild(image: Image, strength: float, rng: Rng) -> Image:
    """What pictures that can be judged differ in: light, a little noise."""
    out = light(image, rng) if rng.random() < 0.5 else image
    return noise(out, rng) if rng.random() < 0.15 else out


# What spoils a picture, and what that is called.
SPOILS: dict[Spoil, Flaw] = {
    blurred: Flaw.BLURRED,
    shaken: Flaw.BLURRED,
    small: Flaw.TOO_SMALL,
    packed: Flaw.COMPRESSED,
    dark: Flaw.DARK,
    bright: Flaw.OVEREXPOSED,
    covered: Flaw.MASKED,
    askew: Flaw.NO_SURE_FACE,
    inverted: Flaw.UPSIDE_DOWN,
}


def nothing(picture: Image, rng: Rng) -> Image:
    """A square of a picture without faces as a crop."""
    side = int(np.exp(rng.uniform(np.log(24), np.log(min(picture.shape[:2])))))
    y, x = (int(rng.integers(n - side + 1)) for n in picture.shape[:2])
    part = picture[y : y + side, x : x + side]
    return np.asarray(cv2.resize(part, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
