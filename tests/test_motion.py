"""What counts as a change of a fixed camera's picture, and what does not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeface.motion import CELL, POINT, Motion, thumbnail

SIZE = (360, 640)


def room(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth scene without people, float64."""
    coarse = rng.integers(40, 200, (9, 16, 3)).astype(np.float64)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def shot(scene: np.ndarray, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
    """A picture of it by a camera with noise of so many gray levels."""
    return np.clip(scene + rng.normal(0, noise, scene.shape), 0, 255).astype(np.uint8)


def changes(pictures, *, search: bool = False) -> list[int]:
    """How many cells changed in each picture after the first; `search` looks at them each time."""
    motion, counts = None, []
    for picture in pictures:
        small = thumbnail(picture, 1.0)
        if motion is None:
            motion = Motion(small)
            continue
        cells = motion(small)
        counts.append(int(cells.sum()))
        if search:
            motion.look(cells)
    return counts


@pytest.mark.parametrize("noise", [0, 2, 6, 12, 20])
def test_the_noise_of_a_sensor_is_no_motion(rng, noise: float) -> None:
    scene = room(rng)
    assert max(changes(shot(scene, rng, noise) for _ in range(40))) == 0


def test_a_repeated_frame_does_not_make_the_noise_forgotten(rng) -> None:
    scene = room(rng)
    pictures = [shot(scene, rng, 14) for _ in range(40)]
    twice = [p for p in pictures for _ in range(2)]
    assert max(changes(twice[1:])) == 0


def test_exposure_and_lamps_that_change_everything_alike_are_no_motion(rng) -> None:
    scene = room(rng) * 0.8
    gains = 1 + 0.2 * np.sin(np.arange(60))
    assert max(changes(shot(scene * g, rng, 2) for g in gains)) == 0


def test_a_slow_drift_in_one_place_adds_up_until_it_counts(rng) -> None:
    scene = room(rng)
    light = np.zeros((*SIZE, 1))
    light[100:200, 100:300] = 1
    counts = changes((shot(scene + 0.25 * i * light, rng, 2) for i in range(60)), search=True)
    assert max(counts[:8]) == 0
    assert 0 < sum(c > 0 for c in counts) < 40


def test_what_moves_changes_its_cells_and_no_others(rng) -> None:
    scene = room(rng)
    motion = Motion(thumbnail(shot(scene, rng, 3), 1.0))
    scene[64:128, 320:352] += 40
    cells = motion(thumbnail(shot(scene, rng, 3), 1.0))
    side = CELL * POINT
    assert cells.shape == (-(-SIZE[0] // side), -(-SIZE[1] // side))
    assert cells[2:4, 10].all()
    cells[1:5, 9:12] = False  # blurring reaches into the neighbours
    assert not cells.any()


@pytest.mark.parametrize("contrast", [20, 30])
def test_a_small_pale_face_that_appears_is_motion(rng, contrast: int) -> None:
    scene = room(rng)
    before = shot(scene, rng, 4)
    scene[201:213, 333:343] += contrast
    assert changes([before, shot(scene, rng, 4)])[0] >= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (90, 160), (1080, 1920), (2160, 3840)])
def test_any_size_has_cells(rng, size: tuple[int, int]) -> None:
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    ratio = min(1.0, 640 / max(size))
    motion = Motion(thumbnail(image, ratio))
    assert not motion(thumbnail(image, ratio)).any()
    assert motion.cells[0] * motion.cells[1] <= 20 * 20
