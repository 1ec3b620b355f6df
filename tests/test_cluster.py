"""Clustering: C against Python against dense numpy, planted people, order, noise, growth."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import score
from edgeface.cluster import (
    EdgeModel,
    Neighbours,
    cluster,
    density_peaks,
    diffusion_density,
    graph,
    neighbours,
    reference,
)
from edgeface.cluster.edges import Neighbourhoods, own_scale_amounts
from edgeface.cluster.growth import Part
from edgeface.cluster.model import FEATURES, SUPPORT
from edgeface.cluster.space import Space, Strangers
from edgeface.cluster.support import LIKELY, Support, expected_people
from edgeface.cluster.update import Pile
from edgeface.errors import DataError, KernelError, ModelError
from edgeface.metrics.clustering import bcubed

needs_c = pytest.mark.skipif(graph.path() == "python", reason="the C extension is not built")


def people(sizes, *, dimension=64, spread=0.6, seed=0):
    """Unit rows around one random direction per person, and who is who."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(sizes), dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    noise = rng.standard_normal((len(labels), dimension)) / np.sqrt(dimension)
    rows = centres[labels] + spread * noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), labels


HEAVY_TAIL = [60, 40, 25, 12, 8, 8, 5, 5, 3, 3, 3, 2, 2, 2, *[1] * 40]


# The kNN graph


def test_neighbours_are_the_largest_cosines_with_oneself_first() -> None:
    rows, _ = people([30, 20, 10])
    near = neighbours(rows, 7)
    dense = rows @ rows.T
    np.fill_diagonal(dense, 2.0)
    assert np.array_equal(near.indices, np.argsort(-dense, axis=1, kind="stable")[:, :7])
    assert np.array_equal(near.similarities[:, 0], np.ones(60))
    assert np.allclose(near.similarities[:, 1:], -np.sort(-dense, axis=1)[:, 1:7], atol=1e-6)


def test_duplicates_do_not_crowd_a_face_out_of_its_own_list() -> None:
    rows = np.repeat(people([1, 1])[0], 10, axis=0)
    near = neighbours(rows, 4)
    assert np.array_equal(near.indices[:, 0], np.arange(20))


def test_cells_find_nearly_what_the_exact_search_finds() -> None:
    rows, _ = people([40] * 50, spread=0.8, seed=3)
    exact, cells = neighbours(rows, 16), neighbours(rows, 16, exact_below=0)
    hits = [len(set(a) & set(b)) for a, b in zip(exact.indices, cells.indices, strict=True)]
    assert sum(hits) / exact.indices.size >= 0.98
    again = neighbours(rows, 16, exact_below=0)
    assert np.array_equal(again.indices, cells.indices)


# The steps in C are the steps in Python


def random_rows(rng, n, k, channels):
    ids = np.full((n, k), reference.PAD, np.int32)
    for i in range(n):
        count = rng.integers(1, min(n, k) + 1)
        ids[i, :count] = np.sort(rng.permutation(n)[:count])
    return graph.Rows(ids, rng.random((channels, n, k), np.float32))


@needs_c
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 3), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_overlap_in_c_is_bit_for_bit_the_definition(n, k, channels, mean, seed) -> None:
    from edgeface import _graph

    rng = np.random.default_rng(seed)
    rows = random_rows(rng, n, k, channels)
    nodes = rng.integers(0, n, 5).astype(np.int32)
    targets = rng.integers(-1, n, (5, k)).astype(np.int32)
    expected = reference.overlap(rows.ids, rows.amounts, nodes, targets, mean=mean)
    assert np.array_equal(graph.overlap(rows, nodes, targets, mean=mean), expected)
    scalar = np.empty_like(expected)
    _graph.overlap(
        n, k, channels, 5, 0 if mean else 1, 1, rows.ids, rows.amounts, nodes, targets, scalar
    )
    assert np.array_equal(scalar, expected)
    found = graph.lookup(rows, nodes, targets, absent=9.0)
    assert np.array_equal(found, reference.lookup(rows.ids, rows.amounts[0], nodes, targets, 9.0))


def random_edges(rng, n, m):
    a, b = rng.integers(0, n, (2, m)).astype(np.int32)
    return graph.Edges.of(n, a, b, rng.random(m, np.float32) + np.float32(0.01))


@needs_c
@given(st.integers(1, 40), st.integers(0, 120), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_partition_in_c_is_the_partition_in_python(n, m, seed) -> None:
    edges = random_edges(np.random.default_rng(seed), n, m)
    labels, length = graph.partition(edges)
    expected, bits = reference.partition(edges.start, edges.targets, edges.weights)
    assert np.array_equal(labels, expected)
    assert length == pytest.approx(bits, abs=1e-9)


@needs_c
def test_wrong_sizes_are_refused() -> None:
    from edgeface import _graph

    rows = random_rows(np.random.default_rng(0), 4, 3, 1)
    one = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="targets holds"):
        _graph.overlap(
            4, 3, 1, 1, 1, 0, rows.ids, rows.amounts, one, one, np.zeros((1, 3), np.float32)
        )
    with pytest.raises(ValueError, match="out of range"):
        _graph.lookup(4, 0, 1, 0.0, rows.ids, rows.amounts, one, one, one)


# Dense oracles


def map_equation(edges: graph.Edges, labels) -> float:
    """Bits per step straight from the equation, on the dense matrix of flows."""
    n = len(edges.start) - 1
    flow = np.zeros((n, n))
    for i in range(n):
        span = slice(edges.start[i], edges.start[i + 1])
        flow[i, edges.targets[span]] = edges.weights[span]
    flow /= flow.sum()
    visit = flow.sum(axis=1)
    modules = [np.flatnonzero(labels == m) for m in np.unique(labels)]
    exits = np.array([flow[np.ix_(m, np.setdiff1d(np.arange(n), m))].sum() for m in modules])

    def entropy(rates):
        rates = np.asarray(rates)[np.asarray(rates) > 0]
        return -np.sum(rates / rates.sum() * np.log2(rates / rates.sum()))

    bits = exits.sum() * entropy(exits) if exits.sum() > 0 else 0.0
    for m, leave in zip(modules, exits, strict=True):
        rates = np.append(visit[m], leave)
        if rates.sum() > 0:
            bits += rates.sum() * entropy(rates)
    return float(bits)


@pytest.mark.parametrize("seed", range(4))
def test_partition_reports_the_length_of_its_code_and_is_near_the_shortest(seed) -> None:
    edges = random_edges(np.random.default_rng(seed), 6, 8)
    labels, length = graph.partition(edges)
    assert length == pytest.approx(map_equation(edges, labels), abs=1e-9)
    shortest = min(map_equation(edges, np.array(p)) for p in divisions(6))
    assert length <= shortest * 1.03


def divisions(n, so_far=()):
    """All ways to divide n things, each once."""
    if len(so_far) == n:
        yield so_far
        return
    for label in range(max(so_far, default=-1) + 2):
        yield from divisions(n, (*so_far, label))


def test_partition_finds_two_cliques_on_a_bridge() -> None:
    a, b = np.array(list(itertools.combinations(range(5), 2)), np.int32).T
    sources = np.concatenate([a, a + 5, [4]]).astype(np.int32)
    targets = np.concatenate([b, b + 5, [5]]).astype(np.int32)
    labels, _ = graph.partition(graph.Edges.of(11, sources, targets, np.ones(21, np.float32)))
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2]


def test_diffusion_density_is_the_column_sum_of_the_transition_matrix() -> None:
    rows, _ = people([20, 10, 5])
    near = neighbours(rows, 6)
    weights = np.exp(near.similarities)
    dense = np.zeros((35, 35))
    np.put_along_axis(dense, near.indices, weights / weights.sum(axis=1, keepdims=True), axis=1)
    density = diffusion_density(near.indices, weights)
    assert np.allclose(density, dense.sum(axis=0), atol=1e-5)
    assert density.mean() == pytest.approx(1.0)


def test_overlap_of_own_scale_amounts_is_the_bhattacharyya_coefficient() -> None:
    rows, _ = people([20, 10, 5])
    near = neighbours(rows, 9)
    amounts = own_scale_amounts(near)
    dense = np.zeros((35, 35), np.float32)
    np.put_along_axis(dense, near.indices, amounts, axis=1)
    every = np.arange(35, dtype=np.int32)
    found = graph.overlap(graph.Rows.of(near.indices, [amounts.__getitem__]), every, near.indices)[
        0
    ]
    assert np.allclose(found, np.take_along_axis(dense @ dense.T, near.indices, 1), atol=1e-6)
    assert np.allclose(found[:, 0], 1.0, atol=1e-5)


def test_density_peaks_break_ties_by_index_and_stop_at_the_threshold() -> None:
    indices = np.array([[0, 1], [1, 0], [2, 1], [3, 2]], np.int32)
    distances = np.array([[0, 0.1], [0, 0.1], [0, 0.3], [0, 0.9]], np.float32)
    labels = density_peaks(indices, distances, np.ones(4, np.float32), threshold=0.5)
    assert labels.tolist() == [0, 0, 0, 1]


# Features and model


def test_raw_cosines_follow_from_centred_ones() -> None:
    rows, _ = people([20, 20], seed=4)
    rows = rows + np.float32(0.5) * rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    space = Space.of(rows)
    nodes = np.arange(40, dtype=np.int32)
    targets = np.broadcast_to(nodes, (40, 40))
    raw = space.frame.raw(nodes, targets, space.rows @ space.rows.T)
    assert np.allclose(raw, rows @ rows.T, atol=1e-5)


def test_an_edge_is_described_alike_from_both_ends() -> None:
    rows, _ = people(HEAVY_TAIL)
    around = Neighbourhoods.of(Space.of(rows), 16)
    indices = around.near.indices
    features = around.features(np.arange(len(rows), dtype=np.int32))
    seen = 0
    for i, row in enumerate(indices):
        for place, j in enumerate(row[1:], 1):
            (back,) = np.where(indices[j] == i)
            if len(back):
                assert np.allclose(features[i, place], features[j, back[0]], atol=2e-5)
                seen += 1
    assert seen > 200


def test_standing_is_the_similarity_in_deviations_of_the_strangers_around() -> None:
    rows, _ = people([1] * 80)
    space = Space.of(rows)
    around = Neighbourhoods.of(space, 40)
    standing = around.features(np.array([7], np.int32))[0, 1, 9:11]
    expected = []
    for face in (7, int(around.near.indices[7, 1])):
        cohort = around.near.similarities[face, 10:]
        spread = np.hypot(max(cohort.std(), 0.02), 0.15 * around.strangers.spread)
        expected.append((around.near.similarities[7, 1] - cohort.mean()) / spread)
    assert np.allclose(standing, sorted(expected, reverse=True), atol=1e-4)


def test_support_is_the_overlap_of_the_likely_rows() -> None:
    rng = np.random.default_rng(5)
    near = neighbours(people([6, 5, 4], seed=5)[0], 8)
    first = rng.random((15, 8)).astype(np.float32)
    first[rng.random((15, 8)) < 0.3] = LIKELY / 2
    first[:, 0] = 1.0
    dense = np.zeros((15, 15))
    np.put_along_axis(dense, near.indices, np.where(first >= LIKELY, first, 0.0), axis=1)
    mass = dense.sum(axis=1)
    rows = np.sqrt(dense / mass[:, None])
    every = np.arange(15, dtype=np.int32)
    found = Support.of(near.indices, first).features(every)
    asked = first >= LIKELY
    ends = near.indices[asked]
    here = np.broadcast_to(every[:, None], asked.shape)[asked]
    assert np.allclose(found[asked][:, 1], (rows @ rows.T)[here, ends], atol=1e-5)
    smaller = np.minimum(mass[here], mass[ends])
    assert np.allclose(found[asked][:, 2], (dense @ dense.T)[here, ends] / smaller, atol=1e-5)
    assert np.allclose(found[asked][:, 4], np.log(smaller), atol=1e-5)


def test_probabilities_of_a_face_do_not_depend_on_what_else_is_asked() -> None:
    rows, _ = people(HEAVY_TAIL)
    around, model = Neighbourhoods.of(Space.of(rows), 16), EdgeModel.load()
    asked = np.array([17], np.int32)
    first = around.first_pass(model.first)
    assert np.allclose(first[17], around.first_pass(model.first, asked)[0], atol=1e-6)
    whole = around.second_pass(model.second, first)
    assert np.allclose(whole[17], around.second_pass(model.second, first, asked)[0], atol=1e-6)


def test_a_part_judges_as_the_whole_does() -> None:
    rows, _ = people(HEAVY_TAIL)
    space, model = Space.of(rows), EdgeModel.load()
    around = Neighbourhoods.of(space, 16)
    nodes = np.array([3, 50, 170], np.int32)
    part = Part.of(nodes, around.near, space.frame, Strangers.of(space))
    first = around.first_pass(model.first)
    assert np.allclose(part.first_pass(nodes, model), first[nodes], atol=1e-6)
    whole = around.second_pass(model.second, first)
    assert np.allclose(part.second_pass(nodes, model, first), whole[nodes], atol=1e-6)


def test_edge_model_survives_its_file(tmp_path) -> None:
    model = EdgeModel.load()
    model.save(tmp_path / "model.json")
    again = EdgeModel.load(tmp_path / "model.json")
    features = np.random.default_rng(0).standard_normal((50, len(FEATURES) + len(SUPPORT)))
    features = features.astype(np.float32)
    assert np.array_equal(model.second(features), again.second(features))
    few = np.ascontiguousarray(features[:, : len(FEATURES)])
    assert np.array_equal(model.first(few), again.first(few))
    assert again.threshold == model.threshold


@pytest.mark.parametrize("damage", ["missing", "text", "features", "shape", "nan", "single"])
def test_a_damaged_edge_model_is_named(tmp_path, damage) -> None:
    path = tmp_path / "model.json"
    if damage != "missing":
        EdgeModel.load().save(path)
        raw = json.loads(path.read_text())
        if damage == "features":
            raw["first"]["features"] = ["cosine"]
        if damage == "shape":
            raw["second"]["output"] = raw["second"]["output"][1:]
        if damage == "nan":
            raw["second"]["hidden_bias"][0] = float("nan")
        if damage == "single":
            raw = raw["first"]
        path.write_text("{" if damage == "text" else json.dumps(raw))
    with pytest.raises(ModelError, match=r"model\.json"):
        EdgeModel.load(path)


# People


def test_planted_people_of_every_size_are_found() -> None:
    rows, truth = people(HEAVY_TAIL, dimension=128)
    found = cluster(rows)
    assert bcubed(truth, found.labels).f >= 0.97
    sizes = [len(found.members(c)) for c in range(3)]
    assert np.allclose(sizes, [60, 40, 25], atol=3)
    assert np.array_equal(found.labels[found.exemplars], np.arange(len(found)))
    assert ((found.certainty >= 0) & (found.certainty <= 1)).all()


def test_order_and_length_of_rows_do_not_matter_and_runs_agree() -> None:
    rows, _ = people(HEAVY_TAIL, spread=0.9)
    order = np.random.default_rng(1).permutation(len(rows))
    first, second, shuffled = cluster(rows), cluster(rows * 4), cluster(rows[order])
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.labels[order], shuffled.labels)
    assert np.array_equal(first.certainty[order], shuffled.certainty)
    assert np.array_equal(first.exemplars, order[shuffled.exemplars])


def test_without_the_extension_the_people_are_the_same(monkeypatch) -> None:
    rows, _ = people(HEAVY_TAIL, spread=0.9)
    expected = cluster(rows)
    monkeypatch.setattr(graph, "_graph", None)
    assert graph.path() == "python"
    assert np.array_equal(cluster(rows).labels, expected.labels)


@needs_c
def test_the_variable_that_forces_a_kernel_reaches_the_graph(monkeypatch) -> None:
    rows, _ = people([5, 4, 3], spread=0.5)
    expected = cluster(rows)
    ran = []
    for name in ("overlap", "lookup", "partition"):
        definition = getattr(reference, name)
        monkeypatch.setattr(
            reference,
            name,
            lambda *a, _run=definition, _name=name, **b: (ran.append(_name), _run(*a, **b))[1],
        )
    for kernel in [*score._native.kernels(), "numpy"]:
        monkeypatch.setenv("EDGEFACE_KERNEL", kernel)
        in_c = "avx2" if kernel.startswith("avx") else "scalar"
        assert graph.path() == ("python" if kernel == "numpy" else in_c)
        assert np.array_equal(cluster(rows).labels, expected.labels)
        assert bool(ran) == (kernel == "numpy")
    monkeypatch.setenv("EDGEFACE_KERNEL", "abacus")
    with pytest.raises(KernelError, match="EDGEFACE_KERNEL=abacus cannot run here"):
        cluster(rows)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_faces_are_no_error(n) -> None:
    found = cluster(people([1] * n)[0] if n else np.empty((0, 8), np.float32))
    assert sorted(found.labels.tolist()) == list(range(n))
    assert len(found) == n


def test_the_more_people_the_more_alike_two_faces_must_be() -> None:
    rows, truth = people([6] * 30 + [1] * 60, dimension=128)
    space = Space.of(rows)
    around = Neighbourhoods.of(space, 64)
    model = EdgeModel.load()
    first = around.first_pass(model.first)
    assert expected_people(first) == pytest.approx(90, rel=0.15)
    limits = [around.strangers.reach(p) for p in (1, 2, 10, 100, 10_000, 1_000_000)]
    assert limits == sorted(limits)
    assert limits[0] == pytest.approx(around.strangers.raw_middle)
    # As many pairs of a Gaussian as it says.
    draws = np.random.default_rng(0).normal(0.1, 0.05, 1_000_000)
    reach = Strangers(0.0, 0.1, 0.1, 0.05).reach(300)
    assert (draws > reach).mean() * 300**2 / 2 == pytest.approx(1.5, rel=0.4)
    same = truth[around.near.indices] == truth[:, None]
    raw = np.einsum("nd,nkd->nk", rows, rows[around.near.indices])
    many = around.second_pass(model.second, first, least=around.strangers.reach(1e9))
    few = around.second_pass(model.second, first, least=around.strangers.reach(2))
    below = (raw < around.strangers.reach(1e9)) & (
        around.near.indices != np.arange(150 + 90)[:, None]
    )
    assert (many[below] == 0).all() and (few[below & same] > 0.5).any()
    assert np.array_equal(many[~below], few[~below])


@pytest.mark.parametrize("others", [0, 1, 2, 9, 60])
@pytest.mark.parametrize("alike", [0.92, 0.97, 1.0])
def test_copies_of_a_picture_are_one_person(others, alike) -> None:
    rows, _ = people([1] * (others + 2), dimension=128)
    beside = rows[1] - (rows[1] @ rows[0]) * rows[0]
    rows[1] = alike * rows[0] + np.sqrt(1 - alike**2) * beside / np.linalg.norm(beside)
    labels = cluster(rows).labels
    assert labels[0] == labels[1]
    assert len(set(labels.tolist())) == others + 1


def test_two_pictures_each_of_two_people() -> None:
    rows, truth = people([2, 2], dimension=128, spread=0.4)
    assert bcubed(truth, cluster(rows).labels).f == 1.0


def test_poor_faces_are_attached_or_noise_but_never_join_people() -> None:
    rows, truth = people([30, 30, *[1] * 60], dimension=128)
    bridge = rows[0] + rows[30]
    stray = np.random.default_rng(9).standard_normal(128).astype(np.float32)
    like_first = rows[:3].mean(axis=0)
    given_quality = np.ones(len(rows) + 3, np.float32)
    given_quality[-3:] = 0.0
    found = cluster(np.vstack([rows, bridge, stray, like_first]), quality=given_quality)
    assert np.array_equal(found.labels[:120], cluster(rows).labels)
    assert bcubed(truth, found.labels[:120]).f >= 0.97
    assert found.labels[-2] == -1
    assert found.labels[-1] == found.labels[0]


def test_given_neighbours_are_used() -> None:
    rows, truth = people(HEAVY_TAIL, dimension=128)
    near = neighbours(rows, 40)
    found = cluster(rows, near=near)
    assert bcubed(truth, found.labels).f >= 0.95
    nobody = Neighbours(near.indices[:, :1], near.similarities[:, :1])
    assert len(cluster(rows, near=nobody)) == len(rows)
    with pytest.raises(ValueError, match="neighbours of 9 faces"):
        cluster(rows, near=neighbours(rows[:9], 3))


@pytest.mark.parametrize(
    ("rows", "quality", "message"),
    [
        (np.ones(4), None, "array is needed"),
        (np.zeros((3, 4)), None, "embedding 0 is zero"),
        (np.full((3, 4), np.nan), None, "not finite"),
        (np.ones((3, 4)), [1.0], "quality is"),
    ],
)
def test_bad_input_is_named(rows, quality, message) -> None:
    with pytest.raises(ValueError, match=message):
        cluster(rows, quality=quality)


# Growth


def names(count, start=0):
    return [f"face {i}" for i in range(start, start + count)]


def test_a_pile_that_grew_is_close_to_one_clustered_at_once() -> None:
    rows, truth = people(HEAVY_TAIL, dimension=128, seed=2)
    order = np.random.default_rng(3).permutation(len(rows))
    rows, truth = rows[order], truth[order]
    cut = int(len(rows) * 0.8)
    pile = Pile.of(rows[:cut], names(cut))
    before = pile.people
    for i in range(cut, len(rows)):
        pile, changes = pile.add(rows[i : i + 1], names(1, i))
        assert any(f"face {i}" in c.faces for c in changes if c.kind == "joined")
    at_once = bcubed(truth, cluster(rows).labels).f
    assert abs(bcubed(truth, pile.people).f - at_once) <= 0.02
    kept = (pile.people[:cut] == before).mean()
    assert kept >= 0.98


def test_ids_are_stable_and_new_people_get_new_ones() -> None:
    rows, truth = people([10, 10, 10, *[1] * 20], dimension=256)
    known = truth != 2
    pile = Pile.of(rows[known], names(int(known.sum())))
    grown, changes = pile.add(rows[~known], names(10, 100))
    assert np.array_equal(grown.people[: known.sum()], pile.people)
    assert set(grown.people[known.sum() :]) == {pile.next_id}
    assert [(c.kind, c.to) for c in changes] == [
        ("created", pile.next_id),
        ("joined", pile.next_id),
    ]
    assert json.loads(changes[1].to_json())["faces"] == names(10, 100)


def test_a_merge_is_journaled() -> None:
    rng = np.random.default_rng(0)
    others, _ = people([1] * 60, dimension=128, seed=8)
    a, b = np.linalg.qr(rng.standard_normal((128, 2)))[0].T
    path = [np.cos(t) * a + np.sin(t) * b for t in np.linspace(0, 1.4, 24)]
    rows = np.array(path) + 0.2 * rng.standard_normal((24, 128)) / np.sqrt(128)
    ends = np.r_[0:6, 18:24]
    pile = Pile.of(np.vstack([rows[ends], others]), names(72))
    assert pile.people[0] != pile.people[6]
    grown, changes = pile.add(rows[6:18], names(12, 100))
    if grown.people[0] == grown.people[6]:
        (merged,) = [c for c in changes if c.kind == "merged"]
        assert merged.to == grown.people[0]
        assert set(merged.people) | {merged.to} >= {pile.people[0], pile.people[6]}
    else:
        assert not [c for c in changes if c.kind == "merged"]


def test_a_pile_survives_its_file_and_damage_is_named(tmp_path) -> None:
    rows, _ = people([5, 4, 3])
    pile = Pile.of(rows, names(12))
    pile.save(tmp_path / "pile.npz")
    again = Pile.load(tmp_path / "pile.npz")
    assert again.names == pile.names
    assert np.array_equal(again.people, pile.people)
    more, _ = people([2], seed=6)
    assert np.array_equal(
        again.add(more, names(2, 50))[0].people, pile.add(more, names(2, 50))[0].people
    )
    (tmp_path / "pile.npz").write_bytes(b"PK junk")
    with pytest.raises(DataError, match=r"pile\.npz: not a pile"):
        Pile.load(tmp_path / "pile.npz")


def test_a_name_belongs_to_one_face() -> None:
    rows, _ = people([3])
    pile = Pile.of(rows, names(3))
    with pytest.raises(ValueError, match="'face 2' names two faces"):
        pile.add(rows[:1], ["face 2"])
    with pytest.raises(ValueError, match="the embedder that the pile was made with"):
        pile.add(np.ones((1, 8), np.float32), ["other"])


def test_an_embedder_whose_strangers_are_widely_spread_keeps_its_links() -> None:
    """Few dimensions: chance makes strangers so alike that a Gaussian of that width promises pairs
    of them above any cosine that one person's pictures reach."""
    rng = np.random.default_rng(3)
    people = rng.standard_normal((60, 16))
    truth = np.repeat(np.arange(60), 15)
    rows = people[truth] + 0.6 * rng.standard_normal((900, 16)) + 0.7
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = cluster(rows.astype(np.float32)).labels
    agreement = bcubed(truth, found)
    assert agreement.precision > 0.85 and agreement.recall > 0.8, agreement
