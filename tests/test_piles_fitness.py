"""Which faces cannot be judged, with the shipped embedder on people it never saw."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeface.piles.fitness import FLOOR, Collapse, fitness
from edgeface.piles.store import Store


def toy(crops: np.ndarray) -> np.ndarray:
    """Two numbers per crop: its mean level and how much its pixels differ."""
    rows = np.stack([[c.mean(), c.std() + 1] for c in crops]).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_collapse_is_learnt_from_the_first_faces_and_kept(tmp_path, rng) -> None:
    crops = rng.integers(0, 256, (140, 112, 112, 3), np.uint8)
    with Store(tmp_path / "faces.sqlite") as store:
        assert not Collapse.of(store, 2).points.any()
        for start in range(0, 140, 7):
            some = crops[start : start + 7]
            Collapse.learn(store, some, 0 * toy(some), toy)
        points = Collapse.of(store, 2).points
        Collapse.learn(store, 255 - crops, 0 * toy(crops), toy)  # enough was seen
        assert np.array_equal(Collapse.of(store, 2).points, points)
    assert np.allclose(np.linalg.norm(points, axis=1), 1.0, atol=1e-6)
    with Store(tmp_path / "faces.sqlite") as store:
        assert np.array_equal(Collapse.of(store, 2).points, points)


def test_fitness_falls_with_quality_and_nearness_and_says_why() -> None:
    points = np.eye(2, 4, dtype=np.float32)
    distinct = np.array([0, 0, 1, 0], np.float32)
    collapse = Collapse(points)
    qualities = np.array([0.9, 0.2, 0.01])
    good, fair, poor = fitness(qualities, np.stack([distinct] * 3), collapse)
    assert good[0] > fair[0] > FLOOR > poor[0]
    assert (good[1], fair[1]) == ("", "") and "small" in poor[1]
    for point in points:
        near = np.stack([a * point + np.sqrt(1 - a * a) * distinct for a in (0.0, 0.2, 0.4, 0.8)])
        values = [value for value, _ in fitness(np.full(4, 0.9), near, collapse)]
        assert values == sorted(values, reverse=True)
        assert values[1] > FLOOR > values[2]
        assert "not recognisable" in fitness(np.full(4, 0.9), near, collapse)[3][1]


@pytest.fixture(scope="module")
def crops(shared: Path) -> np.ndarray:
    """One picture each of 120 people of LFW."""
    folders = sorted((shared / "data" / "lfw" / "aligned112").iterdir())[::48][:120]
    return np.stack([cv2.imread(str(next(iter(sorted(f.iterdir()))))) for f in folders])


def test_faces_without_identity_are_told_from_people(tmp_path, crops) -> None:
    from edgeface.embed import Embedder

    embedder = Embedder.load()
    with Store(tmp_path / "faces.sqlite") as store:
        Collapse.learn(store, crops[:48], embedder(crops[:48]), embedder)
        collapse = Collapse.of(store, embedder.size)
    people = crops[48:]

    def unfit(spoilt) -> float:
        judged = fitness(np.full(len(people), 0.9), embedder(np.stack(spoilt)), collapse)
        return float(np.mean([value < FLOOR for value, _ in judged]))

    def small(side: int) -> list[np.ndarray]:
        return [cv2.resize(cv2.resize(c, (side, side)), (112, 112)) for c in people]

    assert unfit(people) <= 0.03
    assert unfit(small(40)) <= 0.06
    assert unfit(small(8)) >= 0.95
    assert unfit([cv2.GaussianBlur(c, (0, 0), 9) for c in people]) >= 0.9
    noise = np.random.default_rng(0).integers(0, 256, people.shape, np.uint8)
    assert unfit(list(noise)) >= 0.5


def test_a_pile_of_one_person_does_not_learn_that_person(tmp_path, shared) -> None:
    from edgeface.embed import Embedder

    embedder = Embedder.load()
    files = sorted((shared / "data" / "lfw" / "aligned112" / "Serena_Williams").iterdir())
    for count in (1, 4, 24):
        crops = np.stack([cv2.imread(str(f)) for f in files[:count]])
        rows = embedder(crops)
        with Store(tmp_path / f"{count}.sqlite") as store:
            Collapse.learn(store, crops, rows, embedder)
            judged = fitness(np.full(count, 0.9), rows, Collapse.of(store, embedder.size))
        assert all(value > 0.8 for value, _ in judged)
