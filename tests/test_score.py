"""edgeface.score, every kernel this machine runs, against a float64 oracle."""

import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import score
from edgeface.errors import KernelError

NATIVE = score._native.kernels() if score._native is not None else []
NUMBA = ["numba"] if score.portable.numba_candidates() is not None else []
KERNELS = [*NATIVE, *NUMBA, "numpy"]
DIMS = [2, 3, 16, 63, 100, 128, 130, 512]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EDGEFACE_KERNEL", request.param)
    return str(request.param)


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def stored(rows: np.ndarray, storage: str) -> tuple[score.Rows | score.QuantizedRows, np.ndarray]:
    """The rows as a kernel reads them, and the float64 rows that define the answer."""
    if "16" in storage:
        rows = rows.astype(np.float16)
    wide = rows.astype(np.float64)
    return (score.quantize(rows) if "int8" in storage else rows), wide


def ranked(exact: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-exact, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "int8+float16"])
def test_topk_equals_float64(kernel: str, storage: str) -> None:
    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(
        n=st.integers(1, 260),
        q=st.integers(1, 40),
        d=st.sampled_from(DIMS),
        k=st.integers(1, 20),
        seed=st.integers(0, 99),
        threads=st.integers(1, 3),
    )
    def check(*, n: int, q: int, d: int, k: int, seed: int, threads: int) -> None:
        rng = np.random.default_rng(seed)
        probes = unit(rng, q, d)
        rows, wide = stored(unit(rng, n, d), storage)
        indices, similarities = score.topk(probes, rows, k, threads=threads)
        exact = probes.astype(np.float64) @ wide.T
        got = np.take_along_axis(exact, indices, 1)
        want = np.take_along_axis(exact, ranked(exact, k), 1)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)
        np.testing.assert_allclose(similarities, got, rtol=0, atol=1e-7)
        assert indices.dtype == np.int64 and similarities.dtype == np.float32
        assert all(len(set(row)) == len(row) for row in indices.tolist())

    check()


def test_ties_go_to_the_smaller_row(kernel: str) -> None:
    rng = np.random.default_rng(0)
    base = unit(rng, 7, 32)
    rows = np.repeat(base, 300, axis=0)
    for storage in ("float32", "int8"):
        indices, similarities = score.topk(base[:2], stored(rows, storage)[0], 310, threads=2)
        assert indices[0, :300].tolist() == list(range(300))
        assert indices[1, :300].tolist() == list(range(300, 600))
        assert (np.diff(similarities) <= 0).all()


@pytest.mark.skipif(len(NATIVE) < 2, reason="one kernel cannot differ from itself")
def test_native_kernels_agree_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    probes, rows = unit(rng, 37, 192), unit(rng, 3000, 192)
    answers = []
    for name, threads, storage in itertools.product(NATIVE, (1, 2), ("float32", "int8")):
        monkeypatch.setenv("EDGEFACE_KERNEL", name)
        ids, similarities = score.topk(probes, stored(rows, storage)[0], 9, threads=threads)
        answers.append((ids.tobytes(), similarities.tobytes()))
    assert len(set(answers)) == 1


def test_adversarial_near_ties(kernel: str) -> None:
    """Rows closer to each other than int8, and partly float32, can tell apart."""
    rng = np.random.default_rng(2)
    probe = unit(rng, 1, 128)
    rows = probe + 1e-6 * rng.standard_normal((4000, 128)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    want = ranked(probe.astype(np.float64) @ rows.astype(np.float64).T, 3)
    for storage in ("float32", "int8"):
        got, _ = score.topk(probe, stored(rows, storage)[0], 3)
        exact = probe.astype(np.float64) @ rows.astype(np.float64).T
        np.testing.assert_allclose(exact[0, got[0]], exact[0, want[0]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_mixmaxsim_equals_float64(kernel: str, storage: str) -> None:
    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(
        n=st.integers(1, 200),
        q=st.integers(1, 35),
        d=st.sampled_from(DIMS),
        cells=st.integers(1, 9),
        seed=st.integers(0, 99),
        scale=st.sampled_from([1.0, 16.0, 64.0]),
    )
    def check(*, n: int, q: int, d: int, cells: int, seed: int, scale: float) -> None:
        rng = np.random.default_rng(seed)
        probes = unit(rng, q, d)
        weights, wide_w = stored(unit(rng, n, d), storage)
        centres, wide_c = stored(unit(rng, n, d), storage)
        cuts = np.sort(rng.integers(0, n + 1, cells - 1))
        offsets = np.concatenate([[0], cuts, [n]]).astype(np.int64)
        ids = np.sort(rng.choice(10 * n, n, replace=False)).astype(np.int64)
        votes = score.mixmaxsim(
            probes, weights, centres, ids=ids, offsets=offsets, scale=scale, threads=2
        )
        sw, sc = probes.astype(np.float64) @ wide_w.T, probes.astype(np.float64) @ wide_c.T
        each = np.arange(q)
        A, B = np.searchsorted(ids, votes.maxmax), np.searchsorted(ids, votes.sim)
        assert (ids[A] == votes.maxmax).all() and (ids[B] == votes.sim).all()
        for got, want in (
            (votes.a, sw.max(1)), (votes.b, sc.max(1)), (votes.a, sw[each, A]),
            (votes.b, sc[each, B]), (votes.a_prime, sw[each, B]), (votes.b_prime, sc[each, A]),
        ):  # fmt: skip
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)
        check_submodels(votes.submodels, sw, ids, offsets, scale)

    check()


def check_submodels(
    got: score.SubmodelScores | None,
    sw: np.ndarray,
    ids: np.ndarray,
    offsets: np.ndarray,
    scale: float,
) -> None:
    assert got is not None
    for k, (begin, end) in enumerate(itertools.pairwise(offsets)):
        if begin == end:
            assert (got.argmax[:, k] == -1).all() and np.isneginf(got.maximum[:, k]).all()
            assert np.isneginf(got.log_sum_exp[:, k]).all()
            continue
        part = sw[:, begin:end]
        lse = np.log(np.exp(scale * part).sum(axis=1))
        np.testing.assert_allclose(got.maximum[:, k], part.max(axis=1), rtol=0, atol=2e-6)
        np.testing.assert_allclose(got.log_sum_exp[:, k], lse, rtol=1e-5, atol=2e-4)
        at = np.searchsorted(ids, got.argmax[:, k]) - begin
        np.testing.assert_allclose(
            part[np.arange(len(sw)), at], part.max(axis=1), rtol=0, atol=2e-6
        )


def test_ids_break_ties(kernel: str) -> None:
    rows = np.repeat(unit(np.random.default_rng(0), 1, 16), 5, axis=0)
    ids = np.array([9, 4, 7, 2, 5])
    votes = score.mixmaxsim(rows[:1], rows, rows, ids=ids)
    assert votes.maxmax.tolist() == votes.sim.tolist() == [2]


@pytest.mark.skipif(not NATIVE, reason="the certificate's cost is the native kernel's")
def test_cost_of_certainty() -> None:
    rng = np.random.default_rng(3)
    rows = unit(rng, 5000, 256)
    found, _, cost = score.topk_with_cost(rows[:8], score.quantize(rows), 1)
    assert found[:, 0].tolist() == list(range(8))
    assert 8 <= cost.rescored < 800


def test_wrong_input_is_named(kernel: str) -> None:
    rows = unit(np.random.default_rng(0), 6, 4)
    with pytest.raises(ValueError, match="at least 1"):
        score.topk(rows, rows, 0)
    with pytest.raises(ValueError, match="threads"):
        score.topk(rows, rows, 1, threads=0)
    with pytest.raises(ValueError, match="same d"):
        score.topk(rows[:, :3], rows, 1)
    with pytest.raises(ValueError, match="probes hold NaN"):
        score.topk(np.full_like(rows, np.nan), rows, 1)
    with pytest.raises(ValueError, match="rows hold NaN"):
        score.topk(rows, np.full_like(rows, np.nan), 1)
    with pytest.raises(ValueError, match="must match"):
        score.mixmaxsim(rows, rows, rows[:5])
    with pytest.raises(ValueError, match="offsets"):
        score.mixmaxsim(rows, rows, rows, offsets=np.array([0, 5]))
    with pytest.raises(ValueError, match="scale"):
        score.mixmaxsim(rows, rows, rows, offsets=np.array([0, 6]), scale=81)


def test_empty_probes(kernel: str) -> None:
    rows = unit(np.random.default_rng(0), 6, 4)
    indices, similarities = score.topk(rows[:0], rows, 2)
    assert indices.shape == similarities.shape == (0, 2)


def test_forcing_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_KERNEL", "abacus")
    with pytest.raises(KernelError, match="abacus cannot run here"):
        score.kernel()


def test_without_the_extension_it_falls_back_and_says_so() -> None:
    code = (
        "import sys; sys.modules['edgeface._native'] = None; sys.modules['numba'] = None\n"
        "import edgeface.score as s; print(s.kernel()); s.kernel()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "numpy"
    assert done.stderr.count("without its C kernel") == 1


@pytest.mark.parametrize("n", [2000, 20000])
def test_memory_does_not_grow_with_rows(n: int, kernel: str) -> None:
    rng = np.random.default_rng(0)
    rows, probes = unit(rng, n, 32), unit(rng, 64, 32)
    score.topk(probes, rows, 5)
    tracemalloc.start()
    score.topk(probes, rows, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * score.records.ROW_BLOCK * 8 * 3 + 2**20


@pytest.mark.skipif(not NATIVE, reason="the C extension was not built")
def test_failing_native_calls_leak_nothing() -> None:
    native = score._native
    rows = unit(np.random.default_rng(0), 4, 16)
    ids, similarities = np.empty((1, 1), np.int64), np.empty((1, 1), np.float32)
    good = score._native_rows(rows)
    short = (*good[:5], 400, *good[6:])
    held = (rows, ids, similarities, good, short)

    def fail(*args: object) -> None:
        with pytest.raises((ValueError, TypeError)):
            native.topk(*args)

    calls = [
        (None, good, rows, 1, 0, 1, ids, similarities),  # k
        (None, short, rows, 1, 1, 1, ids, similarities),  # more rows than bytes
        (None, good, rows, 1, 1, 1, ids, None),  # no output
        (None, rows, rows, 1, 1, 1, ids, similarities),  # not a tuple
        ("abacus", good, rows, 1, 1, 1, ids, similarities),  # no such kernel
    ]
    for args in calls:
        fail(*args)
    before, blocks = [sys.getrefcount(o) for o in held], sys.getallocatedblocks()
    for _ in range(60_000):
        for args in calls:
            try:
                native.topk(*args)
            except (ValueError, TypeError):
                continue
            raise AssertionError(args)
    assert [sys.getrefcount(o) for o in held] == before
    assert sys.getallocatedblocks() - blocks < 1000
