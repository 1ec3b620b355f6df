"""Faces of one picture, faces that are hard to recognise, and what somebody says about a pile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cluster import people

from edgeface.cluster import cluster
from edgeface.cluster.apart import kept_apart
from edgeface.cluster.hand import merge, name, split
from edgeface.cluster.update import Pile
from edgeface.errors import ArgumentError


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_cluster_holds_two_faces_of_one_picture(data) -> None:
    n = data.draw(st.integers(1, 25))
    numbers = st.integers(-1, 6)
    labels = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), np.int32)
    pictures = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), np.int64)
    ends = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    edges = np.array(data.draw(st.lists(ends, max_size=40)), np.int32).reshape(-1, 2)
    weights = np.linspace(1, 0.5, len(edges), dtype=np.float32)
    found = kept_apart(labels, pictures, edges[:, 0], edges[:, 1], weights)
    pairs = [(f, p) for f, p in zip(found, pictures, strict=True) if f >= 0 and p >= 0]
    assert len(pairs) == len(set(pairs))
    assert np.array_equal(found < 0, labels < 0)
    for label in set(found[found >= 0].tolist()):  # nobody was joined
        assert len(set(labels[found == label].tolist())) == 1
    if len({(a, b) for a, b in zip(labels, pictures, strict=True) if a >= 0 and b >= 0}) == sum(
        (labels >= 0) & (pictures >= 0)
    ):
        assert np.array_equal(found, labels)


def test_two_faces_of_one_picture_are_two_people() -> None:
    rows, truth = people([20, 12, 8, 8])
    pictures = np.arange(len(rows))
    pictures[1] = pictures[0]  # both of the first person
    labels = cluster(rows, pictures=pictures).labels
    assert labels[0] != labels[1]
    assert len({labels[i] for i in range(2, 20)} | {labels[0], labels[1]}) == 2
    together = cluster(rows).labels
    assert together[0] == together[1]
    others = truth > 0
    assert np.array_equal(labels[others], together[others])
    unknown = np.full(len(rows), -1)
    assert np.array_equal(cluster(rows, pictures=unknown).labels, together)


def test_faces_that_are_hard_to_recognise_link_to_sure_ones_alone() -> None:
    rows, truth = people([10, 10, 10], spread=0.4)
    fitness = np.where(truth == 0, 0.6, 1.0)
    fitness[truth == 1] = [0.9] * 9 + [0.7]
    found = cluster(rows, fitness=fitness)
    assert len(set(found.labels[truth == 0].tolist())) == 10
    assert len(set(found.labels[truth == 1].tolist())) == 1
    sure = cluster(rows).certainty
    assert (found.certainty[truth == 1] < sure[truth == 1]).all()
    assert np.allclose(found.certainty[truth == 2], sure[truth == 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pictures": [1, 2]}, "pictures are"),
        ({"pictures": [0.5, 1.0, 2.0]}, "integers"),
        ({"fitness": [1.0]}, "fitness is"),
        ({"fitness": [0.5, 2.0, 0.5]}, r"\[0, 1\]"),
        ({"fitness": [0.5, np.nan, 0.5]}, r"\[0, 1\]"),
    ],
)
def test_bad_facts_about_faces_are_named(options, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        cluster(np.eye(3, dtype=np.float32), **options)


# By hand


@pytest.fixture
def pile():
    """A pile of three people, later faces of theirs, and who is who."""
    rows, truth = people([9, 8, 7], spread=0.4)
    now = np.concatenate([np.flatnonzero(truth == p)[:5] for p in range(3)])
    later = np.setdiff1d(np.arange(len(rows)), now)
    pile = Pile.of(rows[now], [str(i) for i in now])
    assert len(set(pile.people.tolist())) == 3

    def rest(pile, faces=later):
        return pile.add(rows[faces], [str(i) for i in faces])[0]

    return pile, rest, truth


def whose(pile, faces) -> set[int]:
    place = {n: int(p) for n, p in zip(pile.names, pile.people, strict=True)}
    return {place[str(i)] for i in faces}


def test_a_merge_by_hand_holds_and_draws_new_faces(pile) -> None:
    pile, rest, truth = pile
    (one,), (other,) = whose(pile, [0]), whose(pile, [9])
    merged, change = merge(pile, one, other)
    assert (change.kind, change.to, change.people) == ("merged", one, (other,))
    grown = rest(merged)
    assert whose(grown, np.flatnonzero(truth < 2)) == {one}
    assert whose(grown, np.flatnonzero(truth == 2)).isdisjoint({one, other})


def test_a_split_by_hand_holds(pile) -> None:
    pile, rest, _ = pile
    (one,) = whose(pile, [0])
    parted, change = split(pile, ["0", "1"])
    assert (change.to, change.people) == (pile.next_id, (one,))
    grown = rest(parted)
    assert whose(grown, [0, 1]) == {change.to}
    assert whose(grown, [2, 3, 4]) == {one}
    assert whose(grown, [5, 6, 7, 8]) <= {one, change.to}


def test_a_named_person_is_not_swallowed(pile) -> None:
    pile, rest, truth = pile
    (one,), (other,) = whose(pile, [0]), whose(pile, [9])
    for person, who in ((one, "Ann"), (other, "Bob")):
        pile, _ = name(pile, person, who)
    grown = rest(pile)
    assert whose(grown, np.flatnonzero(truth == 0)) == {one}
    assert whose(grown, np.flatnonzero(truth == 1)) == {other}


def test_faces_that_are_gone_leave_and_may_come_back(pile) -> None:
    pile, rest, truth = pile
    whole = rest(pile)
    gone = [str(i) for i in np.flatnonzero(truth == 1)]
    smaller, changes = whole.without(gone)
    assert [c.kind for c in changes] == ["left"]
    assert set(smaller.names).isdisjoint(gone)
    assert len(smaller.clusters().labels) == len(smaller.names)
    kept = np.flatnonzero(truth != 1)
    assert all(whose(smaller, [i]) == whose(whole, [i]) for i in kept)
    again = rest(smaller, np.flatnonzero(truth == 1))
    assert len(whose(again, np.flatnonzero(truth == 1))) == 1
    assert all(whose(again, [i]) == whose(whole, [i]) for i in kept)
    assert whole.without([])[0] is whole
    nobody, _ = whole.without(whole.names)
    assert len(nobody.names) == 0
    few, _ = whole.without(whole.names[:-2])
    assert len(few.clusters().labels) == 2


def test_what_cannot_be_said_is_named(pile) -> None:
    pile, _, _ = pile
    (one,) = whose(pile, [0])
    for act in (
        lambda: merge(pile, one, one),
        lambda: merge(pile, one, 99),
        lambda: split(pile, []),
        lambda: split(pile, ["0", "9"]),
        lambda: split(pile, ["0", "1", "2", "3", "4"]),
        lambda: split(pile, ["nobody"]),
        lambda: name(pile, 99, "Ann"),
    ):
        with pytest.raises(ArgumentError):
            act()


def test_what_was_said_survives_the_file(pile, tmp_path) -> None:
    pile, _, _ = pile
    (one,), (other,) = whose(pile, [0]), whose(pile, [9])
    merged, _ = merge(pile, one, other)
    merged.save(tmp_path / "pile.npz")
    again = Pile.load(tmp_path / "pile.npz")
    assert np.array_equal(again.pinned, merged.pinned)
    assert np.array_equal(again.pictures, merged.pictures)
