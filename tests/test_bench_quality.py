"""What `bench quality` counts, on embeddings whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import face

from bench.quality import FLAWS, GALLERY, Seen, named_share, none


def seen(rows: np.ndarray, enrolled: bool = True, named: bool = True) -> Seen:
    n = len(rows)
    return Seen(rows.astype(np.float32), np.full(n, enrolled), np.full(n, named), n)


def limit(count: int) -> float:
    return 0.5


def test_a_stranger_counts_who_reaches_the_threshold_and_leads(rng) -> None:
    residents = np.eye(GALLERY, 20)
    alike = np.tile(0.8 * np.eye(1, 20) + 0.6 * np.eye(1, 20, 15), (4, 1))
    between = np.tile((np.eye(1, 20) + np.eye(1, 20, 1)) / np.sqrt(2), (4, 1))
    far = np.eye(4, 20, 12)
    share = named_share(
        seen(residents), seen(np.concatenate([alike, between, far])), limit, rng, guarded=False
    )
    assert share == pytest.approx(4 / 12)


def test_the_guard_keeps_poor_faces_out_on_both_sides(rng) -> None:
    residents, strangers = np.eye(GALLERY, 20), np.eye(4, 20)
    for a, b in ((False, True), (True, False)):
        poor = named_share(
            seen(residents, enrolled=a), seen(strangers, named=b), limit, rng, guarded=True
        )
        assert poor == 0.0
    assert named_share(seen(residents), seen(strangers), limit, rng, guarded=True) == 1.0
    nobody = seen(np.empty((0, 20)))
    assert named_share(nobody, seen(strangers), limit, rng, guarded=False) == 0.0
    assert named_share(seen(residents), nobody, limit, rng, guarded=False) == 0.0


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda f: f.__name__)
def test_every_flaw_changes_the_picture_and_nothing_else(flaw, rng) -> None:
    image = rng.integers(60, 200, (200, 180, 3), np.uint8)
    before = image.copy()
    spoilt = flaw(image, face(50, 40, 75), np.random.default_rng(1))
    assert spoilt.dtype == np.uint8 and spoilt.shape[2] == 3
    assert np.array_equal(image, before)
    same = spoilt.shape == image.shape and np.array_equal(spoilt, image)
    assert same == (flaw is none)
