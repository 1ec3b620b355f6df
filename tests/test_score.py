"""edgeface.score against a float64 oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import score


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def oracle(probes: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    exact = probes.astype(np.float64) @ rows.astype(np.float64).T
    return np.argsort(-exact, axis=1, kind="stable")[:, :k]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    q=st.integers(1, 40),
    d=st.sampled_from([1, 3, 16, 100, 128, 130]),
    k=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_topk_equals_float64(n: int, q: int, d: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probes, rows = unit(rng, q, d), unit(rng, n, d)
    indices, similarities = score.topk(probes, rows, k)
    exact = probes.astype(np.float64) @ rows.astype(np.float64).T
    want = oracle(probes, rows, k)
    got = np.take_along_axis(exact, indices, 1)
    np.testing.assert_allclose(got, np.take_along_axis(exact, want, 1), rtol=0, atol=1e-14)
    np.testing.assert_allclose(similarities, got, rtol=0, atol=1e-7)
    assert indices.dtype == np.int64 and similarities.dtype == np.float32


def test_ties_go_to_the_smaller_row() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(unit(rng, 7, 32), 50, axis=0)
    indices, similarities = score.topk(rows[:1], rows, 60)
    assert indices[0, :50].tolist() == list(range(50))
    assert (np.diff(similarities[0]) <= 0).all()


@pytest.mark.parametrize("k", [0, -1])
def test_bad_k(k: int) -> None:
    rows = unit(np.random.default_rng(0), 3, 4)
    with pytest.raises(ValueError, match="at least 1"):
        score.topk(rows, rows, k)
