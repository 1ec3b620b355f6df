"""The template of a set does not depend on how the set came in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.aggregate import Aggregator, Evidence, Policy

SIZE = 16


def faces(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, SIZE)).astype(np.float32) + 0.3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rng.uniform(0.05, 1, n).astype(np.float32)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 64), st.data())
def test_any_order_and_any_chunking_give_one_template(
    seed: int, n: int, data: st.DataObject
) -> None:
    rows, qualities = faces(seed, n)
    aggregator = Aggregator(SIZE)
    at_once = aggregator.read(aggregator.add(aggregator.empty(), rows, qualities))
    order = np.array(data.draw(st.permutations(range(n))))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    state = aggregator.empty()
    for chunk in np.split(order, cuts):
        state = aggregator.add(state, rows[chunk], qualities[chunk])
    bit_by_bit = aggregator.read(state)
    assert np.abs(bit_by_bit.embedding - at_once.embedding).max() <= 1e-6
    assert bit_by_bit.n_faces == at_once.n_faces == n
    assert bit_by_bit.confidence == pytest.approx(at_once.confidence, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 32), st.data())
def test_states_merge_by_adding_and_part_by_subtracting(
    seed: int, n: int, data: st.DataObject
) -> None:
    rows, qualities = faces(seed, n)
    cut = data.draw(st.integers(1, n - 1))
    aggregator = Aggregator(SIZE)
    one = aggregator.add(aggregator.empty(), rows[:cut], qualities[:cut])
    other = aggregator.add(aggregator.empty(), rows[cut:], qualities[cut:])
    whole = aggregator.add(aggregator.empty(), rows, qualities)
    np.testing.assert_allclose((one + other).total, whole.total, atol=1e-9)
    left = aggregator.read((one + other) - other)
    np.testing.assert_allclose(left.embedding, aggregator.read(one).embedding, atol=1e-6)
    assert left.n_faces == cut


def test_one_face_is_its_own_template() -> None:
    rows, _ = faces(1, 1)
    aggregator = Aggregator(SIZE)
    template = aggregator.read(aggregator.add(aggregator.empty(), rows, np.array([0.2])))
    np.testing.assert_allclose(template.embedding, rows[0], atol=1e-6)
    assert template.confidence == pytest.approx(1.0, abs=1e-6)


def test_a_face_of_no_quality_has_no_say() -> None:
    rows, _ = faces(2, 2)
    aggregator = Aggregator(SIZE)
    template = aggregator.read(aggregator.add(aggregator.empty(), rows, np.array([0.0, 0.7])))
    np.testing.assert_allclose(template.embedding, rows[1], atol=1e-6)
    nothing = aggregator.read(aggregator.empty())
    assert (nothing.weight, nothing.n_faces, nothing.confidence) == (0.0, 0, 0.0)


def test_evidence_is_gathered_densely_at_first_and_sparsely_later() -> None:
    evidence = Evidence(Aggregator(SIZE), Policy(fresh=3, refresh=1.0))
    rows, _ = faces(3, 1)
    taken = []
    for i in range(50):
        time = i * 0.1
        if evidence.due(time):
            taken.append(i)
            assert evidence.add(rows[0], 0.8, time)
    assert taken == [0, 1, 2, 12, 22, 32, 42]
    assert not evidence.accepts(0.01)


def test_somebody_else_is_not_mixed_in_and_soon_noticed() -> None:
    evidence = Evidence(Aggregator(SIZE), Policy(foreign=0.15, foreign_run=2))
    mine, other = np.eye(SIZE, dtype=np.float32)[:2]
    assert evidence.add(mine, 0.9, 0.0)
    assert not evidence.add(other, 0.9, 0.1)
    assert not evidence.changed_hands
    assert evidence.due(0.1)
    assert evidence.add(mine, 0.9, 0.2)
    assert not evidence.add(other, 0.9, 0.3)
    assert not evidence.add(other, 0.9, 0.4)
    assert evidence.changed_hands
    np.testing.assert_allclose(evidence.template().embedding, mine, atol=1e-6)
