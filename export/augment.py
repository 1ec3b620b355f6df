"""Degradations a face crop meets in the field: alignment jitter, light, blur, low resolution,
codec, noise, occlusion, missing colour. Every function takes a generator and is a pure function of
it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Strength:
    """Ranges and probabilities. `shift` pixels, `scale` relative, `rotation` degrees: standard
    deviations of the alignment jitter; the others are probabilities per picture."""

    shift: float = 1.5
    scale: float = 0.03
    rotation: float = 3.0
    light: float = 0.5
    blur: float = 0.1
    low_resolution: float = 0.15
    codec: float = 0.1
    noise: float = 0.1
    occlusion: float = 0.1
    gray: float = 0.05
    capture: float = 0.0


MODERATE = Strength()
NONE = Strength(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
STRONG = Strength(2.0, 0.05, 5.0, 0.6, 0.2, 0.3, 0.2, 0.2, 0.2, 0.1)
MILD = Strength(0.8, 0.02, 1.5, 0.3, 0.05, 0.08, 0.05, 0.05, 0.05, 0.03)
# As cameras see faces: half of them small, with our own detector's errors of alignment (.05 of the
# eye distance a point, measured upright, moves the fit by one pixel and turns it by two degrees).
FIELD = Strength(1.0, 0.03, 2.2, 0.5, 0.08, 0.0, 0.08, 0.08, 0.12, 0.08, 0.5)
STRENGTHS = {
    "none": NONE,
    "mild": MILD,
    "moderate": MODERATE,
    "strong": STRONG,
    "field": FIELD,
}


def jitter(image: Image, rng: np.random.Generator, strength: Strength) -> Image:
    """Similarity transform about the centre, as an imperfect alignment would give; mirrored border
    or black, by chance."""
    size = image.shape[0]
    angle = rng.normal(0.0, strength.rotation)
    scale = float(np.exp(rng.normal(0.0, strength.scale)))
    matrix = cv2.getRotationMatrix2D((size / 2 - 0.5, size / 2 - 0.5), angle, scale)
    matrix[:, 2] += rng.normal(0.0, strength.shift, 2)
    border = cv2.BORDER_REFLECT_101 if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    out = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(out, np.uint8)


def light(image: Image, rng: np.random.Generator) -> Image:
    """Gain, offset, gamma and a slight colour cast through one table per channel."""
    levels = np.arange(256, dtype=np.float32) / 255.0
    gamma = np.exp(rng.normal(0.0, 0.25))
    gain = np.exp(rng.normal(0.0, 0.2))
    offset = rng.normal(0.0, 0.06)
    cast = np.exp(rng.normal(0.0, 0.06, 3))
    table = (levels**gamma)[:, None] * gain * cast[None, :] + offset
    lut = np.clip(table * 255.0 + 0.5, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    return np.asarray(cv2.LUT(image, lut), np.uint8)


def blur(image: Image, rng: np.random.Generator) -> Image:
    """Gaussian blur or motion blur along a random direction."""
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.0)), np.uint8)
    length = int(rng.integers(3, 9))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    centre = (length - 1) / 2
    dx, dy = np.cos(angle) * centre, np.sin(angle) * centre
    start = (round(centre - dx), round(centre - dy))
    end = (round(centre + dx), round(centre + dy))
    cv2.line(kernel, start, end, 1.0, 1)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)


def low_resolution(image: Image, rng: np.random.Generator) -> Image:
    """Down to 20..80 pixels and up again, as a small face in a wide frame."""
    size = image.shape[0]
    small = int(rng.integers(20, 80))
    down = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    how = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(down, (size, size), interpolation=how), np.uint8)


def capture(image: Image, rng: np.random.Generator) -> Image:
    """A small face as a camera sends it: 12 to 112 pixels (log-uniform), blurred by the lens or by
    motion, with the sensor's noise, packed by a codec at that size, and enlarged again."""
    size = image.shape[0]
    small = round(float(np.exp(rng.uniform(np.log(12), np.log(size)))))
    how = cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_LINEAR
    out = np.asarray(cv2.resize(image, (small, small), interpolation=how), np.uint8)
    if rng.random() < 0.3:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.2)), np.uint8)
    if rng.random() < 0.4:
        out = noise(out, rng)
    if rng.random() < 0.5:
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 90))])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    enlarge = cv2.INTER_CUBIC if rng.random() < 0.4 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(out, (size, size), interpolation=enlarge), np.uint8)


def codec(image: Image, rng: np.random.Generator) -> Image:
    """JPEG at quality 15..70."""
    quality = int(rng.integers(15, 70))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def noise(image: Image, rng: np.random.Generator) -> Image:
    """Additive Gaussian sensor noise, standard deviation 2..15 levels."""
    sigma = rng.uniform(2.0, 15.0)
    dirty = image + rng.standard_normal(image.shape, np.float32) * np.float32(sigma)
    return np.clip(dirty, 0, 255).astype(np.uint8)


def occlusion(image: Image, rng: np.random.Generator) -> Image:
    """One rectangle of a uniform colour or noise; one time in three the lower face, as a mask."""
    size = image.shape[0]
    out = image.copy()
    if rng.random() < 0.33:
        top = int(rng.integers(size * 55 // 100, size * 75 // 100))
        y0, y1, x0, x1 = top, size, int(rng.integers(0, 15)), size - int(rng.integers(0, 15))
    else:
        height, width = (int(v) for v in rng.integers(size // 8, size // 2, 2))
        y0, x0 = int(rng.integers(0, size - height)), int(rng.integers(0, size - width))
        y1, x1 = y0 + height, x0 + width
    if rng.random() < 0.8:
        out[y0:y1, x0:x1] = rng.integers(0, 256, 3)
    else:
        out[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3))
    return out


def gray(image: Image) -> Image:
    """Luminance in all three channels."""
    one = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.merge([one, one, one]), np.uint8)


def augment(image: Image, rng: np.random.Generator, strength: Strength = MODERATE) -> Image:
    """A degraded copy of a (112, 112, 3) uint8 BGR crop, flipped half of the time."""
    out = image[:, ::-1] if rng.random() < 0.5 else image
    out = np.ascontiguousarray(out)
    if strength.shift or strength.scale or strength.rotation:
        out = jitter(out, rng, strength)
    steps = (
        (strength.light, light),
        (strength.blur, blur),
        (strength.low_resolution, low_resolution),
        (strength.noise, noise),
        (strength.codec, codec),
        (strength.occlusion, occlusion),
        (strength.capture, capture),
    )
    for probability, step in steps:
        if probability and rng.random() < probability:
            out = step(out, rng)
    if rng.random() < strength.gray:
        out = gray(out)
    return out
