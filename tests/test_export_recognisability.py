"""Fitting which faces can be recognised: what spoils a picture, what counts as found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeface.recognisability import Recogniser
from edgeface.types import Flaw
from export.flaws import SPOILS, mild, nothing
from export.recognisability import FIT, KINDS, NOBODY, Probes, area, fit, judge
from export.recognisability_floor import REFUSED, eased

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


def weak(rng: np.random.Generator, alike: float) -> tuple[Recogniser, tuple]:
    """A measure that gives fit faces of one embedder a chance of about a quarter, and what `eased`
    asks: blurred faces get a little less and share `alike` of their embedding."""
    n = 400
    kind = np.arange(n) % 2
    logits = np.where(kind == 0, rng.normal(-1.1, 0.5, n), rng.normal(-1.6, 0.5, n))
    one, none = np.ones(1, np.float32), np.zeros((2, 1), np.float32)
    second = np.array([[10.0], [0.0]], np.float32)  # the chance is the first feature, unbent
    made = Recogniser(np.empty((0, D), np.float32), 0 * one, one, none, second, ())
    made.first[0] = 0.1
    rows = rng.standard_normal((n, D)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[kind == 1] = (1 - alike) * rows[kind == 1] + alike * np.eye(1, D, dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    features = logits.astype(np.float32)[:, None]
    return made, (features, rows, kind, lambda size: LIMIT)


def refused(made: Recogniser, asked: tuple) -> float:
    features, _, kind, *_ = asked
    return float((made.answers(features)[kind == 0, 0] < 0).mean())


def test_the_floor_of_a_weak_embedder_lies_where_few_fit_pictures_are_refused(rng) -> None:
    made, asked = weak(rng, 0.0)
    assert refused(made, asked) > 0.9
    lower, moved = eased(made, *asked)
    assert moved > 1 and refused(lower, asked) == pytest.approx(REFUSED, abs=0.01)
    _, nothing_more = eased(lower, *asked)
    assert nothing_more == pytest.approx(0, abs=1e-3)
    assert made.second[-1, 0] == 0  # what was given stays as it is


def test_the_floor_stays_where_strangers_would_be_named(rng) -> None:
    made, asked = weak(rng, 0.65)
    _, moved = eased(made, *asked)
    free = eased(made, *weak(rng, 0.0)[1])[1]
    assert moved < 0.7 * free


def test_a_strong_embedder_keeps_its_floor(rng) -> None:
    made, asked = weak(rng, 0.0)
    features, *others = asked
    assert eased(made, features + 4, *others)[1] == 0


def test_the_area_under_the_curve() -> None:
    true = np.array([False, True, False, True])
    assert area(np.array([1.0, 2.0, 3.0, 4.0]), true) == 0.75
    assert area(np.array([1.0, 4.0, 2.0, 3.0]), true) == 1.0
