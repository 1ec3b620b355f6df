"""A transformer as first pass of an edge model: what it sees, its file, and that it is used."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from test_cluster import HEAVY_TAIL, people

from edgeface.cluster import EdgeModel, Neighbours, cluster
from edgeface.cluster.attention import Transformer, shapes
from edgeface.cluster.edges import Neighbourhoods
from edgeface.cluster.growth import Part
from edgeface.cluster.model import FEATURES
from edgeface.cluster.space import Space, Strangers
from edgeface.cluster.update import Pile
from edgeface.errors import ModelError
from edgeface.metrics.clustering import bcubed

RANKS = 16


@pytest.fixture
def model() -> EdgeModel:
    """The shipped edge model behind an untrained transformer."""
    rng = np.random.default_rng(5)
    weights = {
        name: rng.normal(0.0, 0.1, shape).round(6).astype(np.float32)
        for name, shape in shapes(RANKS, len(FEATURES), 8, 2, 2).items()
    }
    weights["scale"] = np.ones(len(FEATURES), np.float32)
    return replace(EdgeModel.load(), first=Transformer(2, 2, weights))


def around(rows, k=RANKS) -> Neighbourhoods:
    return Neighbourhoods.of(Space.of(rows), k)


def test_closeness_is_what_lists_say_and_no_more_than_the_last_where_neither_does() -> None:
    rows, _ = people(HEAVY_TAIL)
    graph, space = around(rows), Space.of(rows)
    dense, near, by = space.rows @ space.rows.T, graph.near, graph.strangers
    nodes = np.array([3, 50, 170], np.int32)
    found = graph.closeness(nodes) * by.spread + by.middle
    assert found.shape == (3, RANKS, RANKS)
    listed = [set(row) for row in near.indices.tolist()]
    seen = {True: 0, False: 0}
    for node, table in zip(nodes, found, strict=True):
        for i, one in enumerate(near.indices[node].tolist()):
            for j, other in enumerate(near.indices[node].tolist()):
                known = one in listed[other] or other in listed[one]
                last = min(near.similarities[one, -1], near.similarities[other, -1])
                assert table[i, j] == pytest.approx(dense[one, other] if known else last, abs=1e-4)
                assert table[i, j] >= dense[one, other] - 1e-4
                seen[known] += 1
    assert min(seen.values()) > 20


def test_a_part_judges_as_the_whole_does(model) -> None:
    rows, _ = people(HEAVY_TAIL)
    graph, space = around(rows), Space.of(rows)
    nodes = np.array([3, 50, 170], np.int32)
    first = graph.first_pass(model.first)
    assert first.std() > 0.01
    part = Part.of(nodes, graph.near, space.frame, Strangers.of(space))
    assert np.allclose(part.first_pass(nodes, model), first[nodes], atol=1e-5)
    assert np.allclose(graph.first_pass(model.first, nodes), first[nodes], atol=1e-5)


def test_lists_may_be_longer_and_shorter_than_those_learned_from(model) -> None:
    rows, _ = people([12, 8, 6])
    for k in (2, 9, 26):
        first = around(rows, k).first_pass(model.first)
        assert first.shape == (26, k) and np.isfinite(first).all()


def test_where_a_list_has_ended_nothing_is_looked_at(model) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 6, len(FEATURES))).astype(np.float32)
    closeness = rng.standard_normal((2, 6, 6)).astype(np.float32)
    present = np.ones((2, 6), bool)
    present[:, 4:] = False
    found = model.first(features, closeness, present)
    alone = model.first(features[:, :4], closeness[:, :4, :4], present[:, :4])
    assert np.allclose(found[:, :4], alone, atol=1e-6)
    shorter = Neighbours(np.array([[0, 1, -1], [1, 0, -1]], np.int32), np.eye(2, 3, dtype="f4"))
    frame = Space.of(people([2])[0]).frame
    graph = Neighbourhoods.around(frame, shorter, Strangers(0.0, 0.1, 0.0, 0.1))
    assert np.array_equal(graph.first_pass(model.first)[:, 2], [0.0, 0.0])


def test_its_file_gives_it_back(model, tmp_path) -> None:
    model.save(tmp_path / "model.json")
    again = EdgeModel.load(tmp_path / "model.json")
    rows, truth = people(HEAVY_TAIL)
    graph = around(rows)
    assert np.array_equal(graph.probabilities(model), graph.probabilities(again))
    assert again.text() == model.text()
    found = cluster(rows, model=again)
    assert np.array_equal(found.labels, cluster(rows, model=model).labels)
    order = np.random.default_rng(1).permutation(len(rows))
    assert bcubed(found.labels[order], cluster(rows[order], model=again).labels).f == 1.0
    pile, _ = Pile.of(rows[:150], [str(i) for i in range(150)], model=again).add(
        rows[150:], [str(i) for i in range(150, len(rows))], model=again
    )
    assert len(pile.people) == len(truth)


@pytest.mark.parametrize("damage", ["features", "missing", "shape", "nan", "heads", "more"])
def test_a_damaged_file_is_named(model, tmp_path, damage) -> None:
    raw = json.loads(model.text())
    weights = raw["first"]["weights"]
    if damage == "features":
        raw["first"]["features"] = ["cosine"]
    if damage == "missing":
        del weights["layers.1.closeness"]
    if damage == "shape":
        weights["judge.0.bias"] = weights["judge.0.bias"][1:]
    if damage == "nan":
        weights["rank"][0][0] = float("nan")
    if damage == "heads":
        raw["first"]["heads"] = 3
    if damage == "more":
        weights["layers.2.closeness"] = [0.0, 0.0]
    (tmp_path / "model.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=r"model\.json: .*two-pass edge model"):
        EdgeModel.load(tmp_path / "model.json")
