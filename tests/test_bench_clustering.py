"""The clustering bench: every method it compares works, and what it generates is what it says."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from bench.clustering import trust
from bench.clustering_methods import METHODS, Faces, agglomerative
from bench.clustering_scale import generated, recalls, tail
from edgeface.cluster import neighbours
from edgeface.metrics.clustering import bcubed

# The parameter at which each finds well separated people.
GOOD = {
    "infomap_0_8": 0.5,
    "infomap_tuned": 0.5,
    "cosine_map_equation": 0.5,
    "ndde_tpdi": 0.3,
    "early_stop": 0.6,
    "dbscan": 0.5,
    "chinese_whispers": 0.5,
    "finch": 1,
    "k_means": 0,
    "hdbscan": 1,
}


@pytest.fixture(scope="module")
def planted() -> tuple[Faces, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(12), [30, 20, 15, 12, 10, 8, 8, 6, 6, 5, 5, 4])
    rows = rng.standard_normal((12, 64))[truth] + 0.5 * rng.standard_normal((len(truth), 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Faces(rows, neighbours(rows, 32), 12), truth


def test_every_method_is_covered() -> None:
    assert GOOD.keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_method_finds_separated_people(planted, name) -> None:
    if name.startswith("infomap"):
        pytest.importorskip("infomap", reason="infomap is GPL and not installed by default")
    if name == "hdbscan":
        pytest.importorskip("sklearn")
    faces, truth = planted
    labels = METHODS[name][0](faces, GOOD[name])
    assert labels.shape == truth.shape
    assert bcubed(truth, labels).f > 0.75


def test_average_linkage_is_cut_at_similarities(planted) -> None:
    faces, truth = planted
    every, own = agglomerative(faces, [-1.0, 0.5])
    assert len(np.unique(every)) == 1
    assert bcubed(truth, own).f > 0.95


def test_generated_faces_have_the_tail_they_claim() -> None:
    rows, labels = generated(3000)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert np.array_equal(generated(3000)[0], rows)
    same = labels[:, None] == labels[None]
    cosines = rows @ rows.T
    assert cosines[same].mean() > 0.3
    assert abs(cosines[~same].mean()) < 0.02
    sizes = 1 + (np.random.default_rng(2).pareto(1.35, 20_000) * 5).astype(np.int64)
    assert tail(sizes) == pytest.approx((1.35, 5.0), rel=0.1)


def test_recall_counts_the_true_nearest_that_were_found() -> None:
    rows, labels = generated(500)
    near = neighbours(rows, 64)
    assert recalls("knn", rows, near.indices, labels)["knn.recall"] == 1.0
    half = np.where(np.arange(64) < 32, near.indices, -1)
    assert recalls("knn", rows, half, labels)["knn.recall"] == pytest.approx(0.5, abs=0.01)


def test_a_blurred_crop_is_trusted_less() -> None:
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 255, (112, 112, 3)).astype(np.uint8)
    assert trust(np.full((112, 112, 3), 128, np.uint8)) < 0.05 < trust(sharp)
