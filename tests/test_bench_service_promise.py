"""The bench of promises, on people who are random directions."""

from __future__ import annotations

import numpy as np

from bench.service_promise import STRANGERS, promises, warnings
from bench.service_visits import total, tpir, whole
from edgeface.metrics import Interval
from edgeface.promise import Warned, judge
from edgeface.types import Template


def unit_rows(n: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((n, 32)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_promises_of_random_directions() -> None:
    found = promises(unit_rows(600), 20)
    assert found["service.promise.runs"] == 20
    low, high = (found[f"service.promise.coverage_{end}"] for end in ("low", "high"))
    assert low <= found["service.promise.coverage"] <= high and low < 0.95 < high
    assert found["service.promise.false_alarms"] <= 0.2
    assert found["service.promise.found_3x"] == 1.0


def test_looks_between_names_tell_nothing_new() -> None:
    promised = Interval(0.01, 0.007, 0.014)
    for rate in (0.0, 0.004, 0.06):
        named = np.random.default_rng(1).random(STRANGERS) < rate
        each = {judge(promised, int(k), n).warning for n, k in enumerate(named.cumsum(), 1)}
        assert warnings(promised, named) - {None} == each - {None}
    assert Warned.MORE in each


def test_two_tracks_of_a_visit_name_whom_neither_names() -> None:
    rows = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0].astype(np.float32)
    ann, ben, other = rows[:3]
    tracks = [(ann + side) / np.sqrt(2) for side in rows[3:5]]
    visit = [Template(t, 1.0, 1.0, 3) for t in tracks]
    both, gallery = total(visit), np.stack([ann, ben])
    assert both @ ann > whole(visit, gallery)[0] > max(t @ ann for t in tracks)
    assert np.abs(whole(visit, gallery) - whole(visit[::-1], gallery)).max() <= 1e-6
    probes = np.stack([both, (ben + ann + other) / np.sqrt(3)]) @ gallery.T
    assert tpir(probes, np.array([0, 1]), np.array([True, False])) == 100.0
