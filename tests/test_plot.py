"""The picture of a track: one panel each, every point where its numbers say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeface.draw import save
from edgeface.errors import OutputError
from edgeface.plot import (
    AVERAGE,
    FACE,
    FUSED,
    HEIGHT,
    LIMIT,
    PANELS,
    STRIP,
    WIDTH,
    Curve,
    clock,
    plot,
)


def curve(similarity: float, n: int = 5) -> Curve:
    level = np.full(n, similarity, np.float32)
    shares = np.full(n, 1 / n, np.float32)
    return Curve("track 1: Bob", np.arange(n, dtype=np.float32), level, shares, level, level, 0.4)


def rows_of(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The rows below the title in which a colour is found, edges blended with others left out."""
    away = np.abs(image[40:].astype(int) - colour).max(axis=2)
    return np.flatnonzero((away < 40).any(axis=1)) + 40


def test_one_panel_for_each_track() -> None:
    assert plot([curve(0.5), curve(0.2), curve(0.8)]).shape == (3 * HEIGHT, WIDTH, 3)
    assert plot([]).shape == (HEIGHT, WIDTH, 3)


def test_a_plot_of_many_tracks_is_bounded_and_counts_the_rest() -> None:
    many = [replace(curve(0.2, 2 + i % 7), title=f"track {i}") for i in range(400)]
    named = replace(curve(0.8, 2), title="Bob", named=True)
    drawn = plot([*many[:300], named, *many[300:]], left_out=7)
    assert drawn.shape == (PANELS * HEIGHT + STRIP, WIDTH, 3)
    longest = [c for c in many if len(c.times) == 8]
    assert len(longest) > PANELS
    panel = plot([named])
    panels = [drawn[i * HEIGHT : (i + 1) * HEIGHT] for i in range(PANELS)]
    assert sum(np.array_equal(panel, p) for p in panels) == 1
    assert (drawn[-STRIP:] < 200).any()


def test_higher_similarity_is_drawn_higher() -> None:
    low, high = (rows_of(plot([curve(s)]), FUSED).mean() for s in (0.1, 0.9))
    assert high < low
    above = plot([curve(0.6)])
    assert rows_of(above, FUSED).mean() < rows_of(above, LIMIT).mean()
    assert abs(rows_of(above, FUSED).mean() - rows_of(above, FACE).mean()) < 4


def test_the_plain_average_is_drawn_beside_the_template() -> None:
    worse = replace(curve(0.8), average=np.full(5, 0.3, np.float32))
    drawn = plot([worse])
    assert rows_of(drawn, AVERAGE).mean() > rows_of(drawn, FUSED).mean() + 50


def test_the_axis_tells_hours() -> None:
    assert [clock(t) for t in (0, 59.94, 60, 3723.9, 90000)] == [
        "0.0 s", "59.9 s", "0:01:00", "1:02:03", "25:00:00",
    ]  # fmt: skip


def test_a_single_face_is_a_curve_too() -> None:
    assert len(rows_of(plot([curve(0.7, n=1)]), FUSED)) > 0


def test_a_plot_is_written_or_refused(tmp_path) -> None:
    save(tmp_path / "out.png", plot([curve(0.5)]))
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match=r"out\.what has no suffix of a picture"):
        save(tmp_path / "out.what", plot([]))
    with pytest.raises(OutputError, match="cannot be written"):
        save(tmp_path / "nowhere" / "out.png", plot([]))
