"""What a trace keeps is what the track was decided by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gallery_faces import MODEL, SIZE, faces

from edgeface.aggregate import Aggregator
from edgeface.gallery import Gallery
from edgeface.trace import LOOKS, TRACKS, Look, Trace


def views(n: int) -> np.ndarray:
    """Faces of one person."""
    rows = faces(1) + 0.5 * faces(3, n)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_curves_follow_the_template(tmp_path: Path) -> None:
    aggregator, trace = Aggregator(SIZE), Trace()
    state = aggregator.empty()
    rows, qualities = views(5)[:4], np.array([0.9, 0.2, 0.5, 0.7], np.float32)
    with Gallery.open(tmp_path / "g.gallery", model=MODEL, size=SIZE) as gallery:
        assert trace.curves(gallery, aggregator, 0.5) == []
        gallery.enroll("Alice", views(5)[4])
        gallery.enroll("Bob", faces(2))
        for i, (row, quality) in enumerate(zip(rows, qualities, strict=True)):
            state = aggregator.add(state, row[None], np.array([quality]))
            trace.note(7, Look(0.1 * i, row, float(quality), aggregator.read(state).embedding))
        (curve,) = trace.curves(gallery, aggregator, 0.5)
        sample = gallery.samples("Alice")[0].embedding
        found = gallery.search(aggregator.read(state).embedding, 1)[0]
    assert curve.title == f"track 7: Alice ({found.similarity:.2f}, 4 faces)"
    np.testing.assert_allclose(curve.similarities, rows @ sample, atol=1e-6)
    assert curve.fused[-1] == pytest.approx(found.similarity, abs=1e-6)
    assert curve.fused[0] == pytest.approx(curve.similarities[0], abs=1e-6)
    # The shares are what the template is made of.
    made = curve.shares @ rows
    np.testing.assert_allclose(
        made / np.linalg.norm(made), aggregator.read(state).embedding, atol=1e-6
    )
    assert curve.shares.sum() == pytest.approx(1.0, abs=1e-6)


def test_a_track_nobody_resembles_is_called_unknown(tmp_path: Path) -> None:
    trace = Trace()
    with Gallery.open(tmp_path / "g.gallery", model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Bob", faces(2))
        trace.note(1, Look(0.0, faces(1)[0], 0.8, faces(1)[0]))
        (curve,) = trace.curves(gallery, Aggregator(SIZE), 0.99)
    assert curve.title.startswith("track 1: unknown, nearest Bob")


def test_a_trace_stays_small_however_long_the_watch() -> None:
    trace, row = Trace(), np.zeros(4, np.float32)
    for time in range(5 * LOOKS):
        trace.note(1, Look(float(time), row, 0.5, row))
    kept = trace._looks[1]
    assert len(kept) <= LOOKS
    assert (kept[0].time, kept[-1].time) == (0.0, 5.0 * LOOKS - 1)
    for track in range(2, TRACKS + 50):
        trace.note(track, Look(0.0, row, 0.5, row))
    assert 1 in trace._looks and len(trace._looks) == TRACKS
    assert trace.left_out == 49
