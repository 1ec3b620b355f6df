"""Fitting which faces can be recognised: what spoils a picture, what counts as found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeface.types import Flaw
from export.flaws import SPOILS, mild, nothing
from export.recognisability import FIT, KINDS, NOBODY, Probes, area, fit, judge

D, LIMIT = 32, 0.7


def crop(rng: np.random.Generator) -> np.ndarray:
    small = rng.integers(40, 220, (14, 14, 3), np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8)).astype(np.uint8)


@pytest.mark.parametrize("spoil", [mild, *SPOILS], ids=lambda f: f.__name__)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_flaw_makes_a_crop_of_a_crop_and_leaves_its_source(spoil, strength, rng) -> None:
    source = crop(rng)
    before = source.copy()
    out = spoil(source, strength, np.random.default_rng(2))
    again = spoil(source, strength, np.random.default_rng(2))
    assert out.shape == source.shape and out.dtype == np.uint8
    assert np.array_equal(out, again) and np.array_equal(source, before)


def test_nothing_is_cut_from_a_picture_of_any_size(rng) -> None:
    for shape in ((25, 25, 3), (300, 90, 3)):
        assert nothing(rng.integers(0, 256, shape, np.uint8), rng).shape == (112, 112, 3)


def probes(rng: np.random.Generator, n: int = 400) -> Probes:
    """Fit faces lie at their owners, with long embeddings; blurred ones all in one place, short."""
    kind = np.where(np.arange(n) % 2 == 0, FIT, 1)
    owners = rng.standard_normal((n, D))
    owners /= np.linalg.norm(owners, axis=1, keepdims=True)
    rows = np.where(kind[:, None] == FIT, owners, np.eye(1, D)) + 0.05 * rng.standard_normal((n, D))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    owner = np.einsum("nd,nd->n", rows, owners).astype(np.float32)
    lengths = np.where(kind == FIT, 10.0, 3.0) + rng.normal(0, 0.3, n)
    crops = np.stack([crop(rng) for _ in range(n)])
    strength = rng.random(n).astype(np.float32)
    return Probes(crops, rows, lengths, np.arange(n), kind, strength, owner, np.zeros(n))


def test_who_is_taken_for_others_is_not_found(rng) -> None:
    made = probes(rng)
    assert np.array_equal(made.found(LIMIT), made.kind == FIT)
    sure = replace(made, owner=np.ones(len(made.owner), np.float32))
    assert np.array_equal(sure.found(LIMIT), made.kind == FIT)  # blurred strangers look like them
    alone = replace(sure, rows=np.eye(len(made.rows), dtype=np.float32))
    assert alone.found(LIMIT).all()
    assert not replace(alone, owner=made.owner - 1).found(LIMIT).any()


def test_the_fit_tells_them_apart_on_people_it_never_saw(rng) -> None:
    made = fit(probes(rng), LIMIT, 0)
    line = judge(made, probes(rng), LIMIT)
    assert line["fit.enrolled"] > 0.98 and line["blurred.enrolled"] == 0.0
    assert line["expected"] == pytest.approx(line["found"], abs=0.05)
    assert line["auc"] > 0.99 and line["flaw_named"] > 0.98
    assert made.looks[-1] is Flaw.TURNED_AWAY
    assert len(KINDS) == NOBODY + 1


def test_the_area_under_the_curve() -> None:
    true = np.array([False, True, False, True])
    assert area(np.array([1.0, 2.0, 3.0, 4.0]), true) == 0.75
    assert area(np.array([1.0, 4.0, 2.0, 3.0]), true) == 1.0
