"""Open-set decisions: thresholds, margins, exclusivity, confirmation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.decide import Confirmation, Rules, decide, decide_together
from edgeface.types import Decision, Kind, Match, Status, Threshold

LIMIT = Threshold(0.5, "user")


def matches(*similarities: float, ids: tuple[int, ...] | None = None) -> list[Match]:
    people = ids or tuple(range(1, len(similarities) + 1))
    rows = [Match(p, f"p{p}", s) for p, s in zip(people, similarities, strict=True)]
    return sorted(rows, key=lambda m: -m.similarity)


def test_each_rule_on_its_own() -> None:
    assert decide([], LIMIT).status is Status.UNKNOWN
    assert math.isnan(decide([], LIMIT).similarity)
    assert decide(matches(0.49), LIMIT).status is Status.UNKNOWN
    assert decide(matches(0.50), LIMIT).status is Status.MATCH
    assert decide(matches(0.70, 0.69), LIMIT, margin=0.03).status is Status.UNCERTAIN
    won = decide(matches(0.70, 0.60), LIMIT, margin=0.03)
    assert (won.status, won.name, won.person_id) == (Status.MATCH, "p1", 1)
    assert won.margin == pytest.approx(0.10)
    assert won.threshold is LIMIT


def test_a_numbered_stranger_is_held_to_a_threshold_of_their_own_and_never_a_match() -> None:
    stranger, known = (
        Match(1, "stranger-1", 0.6, Kind.STRANGER),
        Match(2, "Ann", 0.52),
    )
    met = decide([stranger, known], LIMIT, stranger=Threshold(0.55, "linking"))
    assert (met.status, met.kind, met.name) == (Status.STRANGER, Kind.STRANGER, "stranger-1")
    assert met.threshold.origin == "linking"
    # More like a stranger who is out of reach than like Ann: nobody can say.
    torn = decide([stranger, known], LIMIT, stranger=Threshold(0.65, "linking"))
    assert (torn.status, torn.kind, torn.name) == (Status.UNCERTAIN, None, None)
    assert torn.margin == pytest.approx(-0.08)
    ann = decide([Match(2, "Ann", 0.6), stranger], LIMIT, stranger=LIMIT, margin=-1.0)
    assert (ann.status, ann.kind) == (Status.MATCH, Kind.KNOWN)


@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=5))
def test_no_stranger_is_ever_a_match(people: list[tuple[float, bool]]) -> None:
    row = [
        Match(i, f"p{i}", s, Kind.STRANGER if strange else Kind.KNOWN)
        for i, (s, strange) in enumerate(sorted(people, reverse=True))
    ]
    (made,) = decide_together([row], LIMIT, stranger=Threshold(0.3, "linking"))
    wanted = {None: None, Kind.KNOWN: Status.MATCH, Kind.STRANGER: Status.STRANGER}[made.kind]
    assert wanted in {None, made.status}
    assert (made.kind is None) == (made.name is None) == (made.person_id is None)
    if made.person_id is not None:
        limit = 0.3 if made.kind is Kind.STRANGER else LIMIT.value
        assert made.similarity >= limit == made.threshold.value


def test_nobody_is_in_a_frame_twice() -> None:
    one, two = decide_together([matches(0.8, 0.1), matches(0.7, 0.1)], LIMIT)
    assert (one.name, two.name) == ("p1", None)
    assert two.status is Status.UNKNOWN


def test_the_assignment_is_the_best_for_the_frame() -> None:
    rows = [matches(0.80, 0.75, ids=(1, 2)), matches(0.79, 0.55, ids=(1, 2))]
    assert [d.name for d in decide_together(rows, LIMIT)] == ["p2", "p1"]


@given(st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_no_name_twice_and_none_below_the_threshold(similarities: list[list[float]]) -> None:
    decisions = decide_together([matches(*row) for row in similarities], LIMIT)
    names = [d.name for d in decisions if d.name]
    assert len(names) == len(set(names))
    for decision, row in zip(decisions, similarities, strict=True):
        if decision.person_id is not None:
            assert row[decision.person_id - 1] >= LIMIT.value


@given(st.integers(0, 2**32 - 1))
def test_the_total_similarity_is_the_highest_there_is(seed: int) -> None:
    table = np.random.default_rng(seed).uniform(0.5, 1, (3, 3))
    decisions = decide_together([matches(*row) for row in table], LIMIT, margin=-1.0)
    total = sum(table[i, d.person_id - 1] for i, d in enumerate(decisions) if d.person_id)
    best = max(sum(table[i, p[i]] for i in range(3)) for p in itertools.permutations(range(3)))
    assert total == pytest.approx(best)


def test_who_is_shown_is_held_a_little_below_the_threshold_and_the_result_says_so() -> None:
    row = matches(0.48, 0.1)
    (held,) = decide_together([row], LIMIT, shown=[1], hold=0.03)
    assert (held.name, held.threshold.origin) == ("p1", "user,held")
    assert held.threshold.value == pytest.approx(0.47)
    (sure,) = decide_together([matches(0.6, 0.1)], LIMIT, shown=[1], hold=0.03)
    assert sure.threshold == LIMIT
    for shown in (None, 2):  # a newcomer gets nothing off
        (new,) = decide_together([row], LIMIT, shown=[shown], hold=0.03)
        assert (new.name, new.threshold) == (None, LIMIT)
    (gone,) = decide_together([matches(0.46, 0.1)], LIMIT, shown=[1], hold=0.03)
    assert gone.name is None


def test_a_held_person_yields_to_a_better_probe_of_the_frame() -> None:
    rows = [matches(0.48, 0.1), matches(0.7, 0.1)]
    one, two = decide_together(rows, LIMIT, shown=[1, None], hold=0.03)
    assert (one.name, two.name) == (None, "p1")


def seen(name: str | None) -> Decision:
    if name is None:
        return Decision(Status.UNKNOWN, None, None, 0.1, 0.0, LIMIT)
    return Decision(Status.MATCH, name, ord(name), 0.8, 0.3, LIMIT)


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("AAA", "-AA"),
        ("A-A-A", "-----"),
        ("AA--A", "-AAAA"),
        ("AA---", "-AAA-"),
        ("AABAB", "-AAAA"),
        ("AABBB", "-AABB"),
        ("---", "---"),
    ],
)
def test_a_name_needs_agreement_to_come_and_disagreement_to_go(script: str, shown: str) -> None:
    confirmation = Confirmation(Rules(confirm=2, release=3))
    told = [confirmation.update(seen(None if c == "-" else c)).name for c in script]
    assert "".join(n or "-" for n in told) == shown


def test_a_first_match_is_told_as_uncertain() -> None:
    first = Confirmation(Rules(confirm=2)).update(seen("A"))
    assert (first.status, first.name, first.similarity) == (Status.UNCERTAIN, None, 0.8)
