"""Sightings of several cameras become visits, whose templates add up."""

from __future__ import annotations

import itertools
import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sightings import NOW, D, near, unit

from edgeface.sightings.joined import GAP, Visit, fused, visits_of
from edgeface.sightings.records import Appearance

SAME = 0.3


def row(
    number: int, camera: str, start: float, template: np.ndarray | None = None, *,
    person: int | None = None, weight: float = 1.0, lasts: float = 20.0,
) -> Appearance:  # fmt: skip
    first = NOW + timedelta(seconds=start)
    return Appearance(
        number, "r", number, camera, first, first + timedelta(seconds=lasts), person, None, None,
        "unknown", None, 0.4, "card", template, weight, 3, math.nan, False,
    )  # fmt: skip


def ids(visits: list[Visit]) -> list[list[int]]:
    return [[r.id for r in v.rows] for v in visits]


@given(st.lists(st.floats(0.01, 30), min_size=2, max_size=7), st.randoms(use_true_random=False))
def test_the_order_of_cameras_changes_nothing(weights: list[float], random) -> None:
    rows = [row(i, f"c{i}", 0, unit(i), weight=w) for i, w in enumerate(weights)]
    shuffled = random.sample(rows, len(rows))
    one, other = (Visit(first) for first in (rows[0], shuffled[0]))
    for visit, rest in ((one, rows[1:]), (other, shuffled[1:])):
        for more in rest:
            visit.add(more)
    assert one.template is not None and other.template is not None
    assert np.abs(one.template - other.template).max() <= 1e-6
    assert abs(float(np.linalg.norm(one.template)) - 1) <= 1e-6


def test_the_sum_is_nearer_to_the_person_than_any_camera() -> None:
    rng, person = np.random.default_rng(0), unit(0)
    better = 0
    for trial in range(200):
        rows = [
            row(i, f"c{i}", 30 * i, near(person, 10 * trial + i + 1, float(rng.uniform(0.3, 0.6))))
            for i in range(3)
        ]
        visit = Visit(rows[0])
        for more in rows[1:]:
            visit.add(more)
        assert visit.template is not None
        alone = [float(r.template @ person) for r in rows if r.template is not None]
        better += float(visit.template @ person) > max(alone)
    assert better >= 190


def test_strangers_on_their_way_are_one_visit_and_others_are_not() -> None:
    one, other = unit(1), unit(2)
    rows = [
        row(1, "gate", 0, one),
        row(2, "gate", 5, other),
        row(3, "door", 40, near(one, 3, 0.7)),
        row(4, "hall", 90, near(one, 4, 0.6)),
        row(5, "hall", 91, None),  # no face was good enough
    ]
    found = visits_of(rows, SAME)
    assert sorted(ids(found)) == [[1, 3, 4], [2], [5]]
    assert ids(found)[-1] == [2]  # newest first
    for order in itertools.permutations(rows):
        assert sorted(ids(visits_of(order, SAME))) == [[1, 3, 4], [2], [5]]


def test_a_person_is_one_visit_until_a_long_break() -> None:
    late = GAP.total_seconds() + 21
    rows = [
        row(1, "gate", 0, unit(1), person=7),
        row(2, "door", 30, unit(2), person=7),  # looks different, but is known to be them
        row(3, "door", 31, unit(1), person=8),  # looks the same, but is known not to be
        row(4, "gate", 30 + late, unit(1), person=7),
    ]
    assert sorted(ids(visits_of(rows, SAME))) == [[1, 2], [3], [4]]


def test_evidence_goes_on_for_a_person_whom_only_one_camera_knew() -> None:
    rows = [row(1, "gate", 0, unit(1)), row(2, "door", 30, near(unit(1), 5, 0.6), person=7)]
    (visit,) = visits_of(rows, SAME)
    assert visit.person_id == 7 and [r.id for r in visit.rows] == [1, 2]


def test_nobody_is_twice_before_one_camera() -> None:
    twins = [row(1, "gate", 0, unit(1)), row(2, "gate", 5, unit(1))]
    assert sorted(ids(visits_of(twins, SAME))) == [[1], [2]]
    again = [row(1, "gate", 0, unit(1)), row(2, "gate", 25, unit(1))]
    assert ids(visits_of(again, SAME)) == [[1, 2]]


@pytest.mark.parametrize("rows", [[], [row(1, "gate", 0, np.zeros(D, np.float32))]])
def test_little_to_join(rows: list[Appearance]) -> None:
    assert ids(visits_of(rows, SAME)) == [[r.id] for r in rows]
    assert all(v.template is None for v in visits_of(rows, SAME))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.randoms(use_true_random=False))
def test_what_a_visit_says_lies_between_its_sum_and_its_best_view(
    seed: int, count: int, random
) -> None:
    rng = np.random.default_rng(seed)
    tracks = rng.standard_normal((count, D)).astype(np.float32)
    tracks /= np.linalg.norm(tracks, axis=1, keepdims=True)
    total, people = unit(seed % 1000), np.stack([unit(n) for n in range(5)])
    said = fused(total, tracks, people)
    pair = np.stack([people @ total, (people @ tracks.T).max(axis=1)])
    assert (said >= pair.min(axis=0) - 1e-6).all() and (said <= pair.max(axis=0) + 1e-6).all()
    shuffled = tracks[random.sample(range(count), count)]
    assert np.abs(fused(total, shuffled, people) - said).max() <= 1e-6
