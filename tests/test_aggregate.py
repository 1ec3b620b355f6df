"""The template of a set does not depend on how the set came in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.aggregate import Aggregator, Evidence, Learned, Looks, Policy, State
from edgeface.embed import Embedder
from edgeface.errors import ModelError
from edgeface.models import FileRef, FusionSpec, InputSpec, ModelCard, load_card
from edgeface.types import Threshold

THRESHOLD = Threshold(0.5, "card")
SIZE = 16


class Dealt:
    """A head of three centres and two tokens, of sums that a reader can follow."""

    centres, width = 3, 2

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.directions = rng.normal(size=(SIZE, 3))
        self.channels = rng.normal(size=(2, SIZE))

    def look(self, embeddings: np.ndarray, qualities: np.ndarray) -> Looks:
        scores = np.exp(embeddings.astype(np.float64) @ self.directions)
        shares = scores / scores.sum(axis=1, keepdims=True) * qualities[:, None]
        return Looks(shares, embeddings[:, :2].astype(np.float64), qualities.astype(np.float64))

    def mean(self, state: State) -> np.ndarray:
        # Per channel a convex combination of the centres, by what the tokens say of each.
        favour = np.exp((state.tokens / state.mass[:, None]) @ self.channels)
        means = state.total / state.mass[:, None]
        return (favour / favour.sum(axis=0) * means).sum(axis=0)


AGGREGATORS = {
    "closed": Aggregator(SIZE),
    "dealt": Aggregator(SIZE, Dealt()),
    "shipped": Aggregator.of(load_card("mobilefacenet", "embedding")),
}
every = pytest.mark.parametrize("which", AGGREGATORS)


def faces(seed: int, n: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, size)).astype(np.float32) + 0.3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rng.uniform(0.05, 1, n).astype(np.float32)


@every
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 64), data=st.data())
def test_any_order_and_any_chunking_give_one_template(
    which: str, seed: int, n: int, data: st.DataObject
) -> None:
    aggregator = AGGREGATORS[which]
    rows, qualities = faces(seed, n, aggregator.size)
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
    assert bit_by_bit.weight == pytest.approx(qualities.sum(), abs=1e-4)


@every
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 32), data=st.data())
def test_states_merge_by_adding_and_part_by_subtracting(
    which: str, seed: int, n: int, data: st.DataObject
) -> None:
    aggregator = AGGREGATORS[which]
    rows, qualities = faces(seed, n, aggregator.size)
    cut = data.draw(st.integers(1, n - 1))
    one = aggregator.add(aggregator.empty(), rows[:cut], qualities[:cut])
    other = aggregator.add(aggregator.empty(), rows[cut:], qualities[cut:])
    whole = aggregator.add(aggregator.empty(), rows, qualities)
    merged = aggregator.read(one + other)
    np.testing.assert_allclose(merged.embedding, aggregator.read(whole).embedding, atol=1e-6)
    left = aggregator.read((one + other) - other)
    np.testing.assert_allclose(left.embedding, aggregator.read(one).embedding, atol=1e-6)
    assert left.n_faces == cut


@every
def test_one_face_is_its_own_template(which: str) -> None:
    aggregator = AGGREGATORS[which]
    for seed in range(20):
        rows, _ = faces(seed, 1, aggregator.size)
        template = aggregator.read(aggregator.add(aggregator.empty(), rows, np.array([0.2])))
        np.testing.assert_allclose(template.embedding, rows[0], atol=1e-6)
        assert template.confidence == pytest.approx(1.0, abs=1e-5)


@every
def test_a_face_of_no_quality_has_no_say(which: str) -> None:
    aggregator = AGGREGATORS[which]
    rows, _ = faces(2, 2, aggregator.size)
    state = aggregator.add(aggregator.empty(), rows, np.array([0.0, 0.7]))
    template = aggregator.read(state)
    np.testing.assert_allclose(template.embedding, rows[1], atol=1e-6)
    assert template.n_faces == 2
    nothing = aggregator.read(aggregator.add(aggregator.empty(), rows, np.zeros(2)))
    assert (nothing.weight, nothing.n_faces, nothing.confidence) == (0.0, 2, 0.0)
    assert aggregator.read(aggregator.empty()).n_faces == 0


def two_people(aggregator: Aggregator, axes: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """The template and the mean of ten faces of one direction and four of another."""
    person = np.repeat([0, 1], [10, 4])
    rows = axes[person] + 0.03 * np.random.default_rng(seed).normal(size=(14, aggregator.size))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    template = aggregator.read(aggregator.add(aggregator.empty(), rows, np.full(14, 0.8)))
    return template.embedding, rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))


def test_faces_of_another_person_are_left_out() -> None:
    aggregator = AGGREGATORS["closed"]
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(SIZE, 2)))[0].T
    template, mean = two_people(aggregator, axes, 5)
    assert template @ axes[1] < 0.6 * (mean @ axes[1])
    assert template @ axes[0] > mean @ axes[0]


def test_the_shipped_fusion_leaves_out_another_person_by_and_large(shared: Path) -> None:
    # A network judges faces by what they look like, so it is asked about likely ones, and not about
    # a single case: who looks clearer may win although they are fewer.
    people = sorted((shared / "data/lfw/aligned112").iterdir())[: 60 * 40 : 40]
    crops = [cv2.imread(str(sorted(folder.iterdir())[0])) for folder in people]
    faces = Embedder.load("mobilefacenet", threads=1)(np.stack(crops))
    own, other = [], []
    for seed in range(30):
        axes = faces[2 * seed : 2 * seed + 2]
        template, mean = two_people(AGGREGATORS["shipped"], axes, seed)
        own.append(template @ axes[0] - mean @ axes[0])
        other.append(template @ axes[1] - mean @ axes[1])
    assert np.mean(own) > 0 > np.mean(other)
    assert np.mean(np.array(own) > 0) > 0.75


def test_a_card_without_networks_means_the_closed_form(tmp_path: Path) -> None:
    path, spec = tmp_path / "toy.onnx", InputSpec("image")
    card = ModelCard("toy", "embedding", path, "0", SIZE, THRESHOLD, spec)
    aggregator = Aggregator.of(card)
    rows, qualities = faces(3, 5)
    template = aggregator.read(aggregator.add(aggregator.empty(), rows, qualities))
    same = AGGREGATORS["closed"]
    again = same.read(same.add(same.empty(), rows, qualities))
    np.testing.assert_array_equal(template.embedding, again.embedding)


@pytest.mark.parametrize("content", [None, b"not the network"])
def test_networks_other_than_the_card_names_are_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    part = FileRef(tmp_path / "toy.update.onnx", "0" * 64)
    path, spec = tmp_path / "toy.onnx", InputSpec("image")
    fusion = FusionSpec(4, 8, part, part)
    card = ModelCard("toy", "embedding", path, "0", SIZE, THRESHOLD, spec, fusion=fusion)
    if content is not None:
        (tmp_path / "toy.update.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"toy.update.onnx (has sha256|of card toy is missing)"):
        Learned.beside(card)


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
