"""Drawn impostors lead to the thresholds that real ones lead to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeface.calibrate import calibrate
from edgeface.cohort import Cohort
from edgeface.errors import CalibrationError
from edgeface.metrics import fpir

MODEL = "sha256:abc"


def people(n: int, seed: int) -> np.ndarray:
    """A population with kinds: strangers of one kind resemble each other more."""
    kinds = np.random.default_rng(0).standard_normal((12, 32)) * 0.8
    rng = np.random.default_rng(seed)
    rows = kinds[rng.integers(0, 12, n)] + rng.standard_normal((n, 32)) * np.linspace(0.2, 1.5, 32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return Cohort.fit(people(4000, 1), model=MODEL, components=24)


@pytest.mark.parametrize("rate", [1e-1, 1e-2])
def test_drawn_impostors_lead_to_about_the_rate_asked_for(cohort: Cohort, rate: float) -> None:
    gallery, strangers = people(200, 2), people(5000, 3)
    drawn = calibrate((cohort.draw(3000) @ gallery.T).max(axis=1), fpir=rate, size=200)
    measured = fpir((strangers @ gallery.T).max(axis=1), drawn.value)
    assert rate / 4 < measured < rate * 4
    blind = np.random.default_rng(5).standard_normal((3000, 32))
    blind /= np.linalg.norm(blind, axis=1, keepdims=True)
    naive = calibrate((blind @ gallery.T).max(axis=1), fpir=rate, size=200)
    off = abs(np.log(measured / rate))
    assert off < abs(np.log(fpir((strangers @ gallery.T).max(axis=1), naive.value) / rate))


def test_draws_are_unit_rows_and_repeatable(cohort: Cohort) -> None:
    rows = cohort.draw(500, seed=3)
    assert (rows.shape, rows.dtype) == ((500, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(rows, cohort.draw(500, seed=3))
    assert not np.array_equal(rows, cohort.draw(500, seed=4))


def test_nobody_is_in_it(cohort: Cohort) -> None:
    """No draw and no mean comes as close to a person it was fitted to as that person's own face."""
    known = people(4000, 1)
    assert (cohort.draw(4000) @ known.T).max() < 0.97
    means = cohort.means @ cohort.axes.T + cohort.centre
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert (means @ known.T).max() < 0.99


def test_a_cohort_is_saved_small_and_read_back(cohort: Cohort, tmp_path: Path) -> None:
    cohort.save(tmp_path / "c.npz")
    again = Cohort.load(tmp_path / "c.npz", model=MODEL)
    np.testing.assert_allclose(again.draw(50), cohort.draw(50), atol=5e-3)
    with pytest.raises(CalibrationError, match="made for model sha256:abc, this is model other"):
        Cohort.load(tmp_path / "c.npz", model="other")
    (tmp_path / "text").write_text("no cohort")
    for name in ("text", "absent"):
        with pytest.raises(CalibrationError, match="is not a cohort"):
            Cohort.load(tmp_path / name)


def test_too_few_people_are_refused() -> None:
    with pytest.raises(CalibrationError, match="too few"):
        Cohort.fit(people(100, 0), model=MODEL)
