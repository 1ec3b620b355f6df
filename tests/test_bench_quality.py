"""What `bench quality` counts, on embeddings whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import face

from bench.quality import FLAWS, none
from export.protocols.enrolled import GALLERY, named_share


def limit(count: int) -> float:
    return 0.5


def share(residents, strangers, rng, *, enrolled: bool = True, named: bool = True) -> float:
    masks = np.full(len(residents), enrolled), np.full(len(strangers), named)
    return named_share(residents, masks[0], strangers, masks[1], limit, rng)


def test_a_stranger_counts_who_reaches_the_threshold_and_leads(rng) -> None:
    residents = np.eye(GALLERY, 20)
    alike = np.tile(0.8 * np.eye(1, 20) + 0.6 * np.eye(1, 20, 15), (4, 1))
    between = np.tile((np.eye(1, 20) + np.eye(1, 20, 1)) / np.sqrt(2), (4, 1))
    far = np.eye(4, 20, 12)
    found = share(residents, np.concatenate([alike, between, far]), rng)
    assert found == pytest.approx(4 / 12)


def test_the_guard_keeps_poor_faces_out_on_both_sides(rng) -> None:
    residents, strangers = np.eye(GALLERY, 20), np.eye(4, 20)
    assert share(residents, strangers, rng, enrolled=False) == 0.0
    assert share(residents, strangers, rng, named=False) == 0.0
    assert share(residents, strangers, rng) == 1.0
    nobody = np.empty((0, 20))
    assert share(nobody, strangers, rng) == 0.0
    assert share(residents, nobody, rng) == 0.0


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda f: f.__name__)
def test_every_flaw_changes_the_picture_and_nothing_else(flaw, rng) -> None:
    image = rng.integers(60, 200, (200, 180, 3), np.uint8)
    before = image.copy()
    spoilt = flaw(image, face(50, 40, 75), np.random.default_rng(1))
    assert spoilt.dtype == np.uint8 and spoilt.shape[2] == 3
    assert np.array_equal(image, before)
    same = spoilt.shape == image.shape and np.array_equal(spoilt, image)
    assert same == (flaw is none)
