"""The main job on a real clip: two enrolled people are named, nobody else is."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

import edgeface as ef
from bench.pipeline_clips import ALEX, LIN
from bench.pipeline_clips import hamilton as who
from edgeface import video


@pytest.fixture(scope="module")
def named(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, list]]:
    """name -> track -> [(frame, box)] of all sightings that show a name."""
    folder = shared / "data" / "video"
    gallery = tmp_path_factory.mktemp("hamilton") / "people.gallery"
    found: dict[str, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    with ef.Identifier.open(gallery) as app:
        for name in (LIN, ALEX):
            app.enroll(name, [folder / "gallery_hamilton" / f"{name}.png"], policy="largest")
        for frame in video.frames(folder / "short_hamilton_clip.mp4"):
            app.step(frame)
            for s in app.sightings:
                if s.decision.name:
                    found[s.decision.name][s.track].append((frame.index, s.face.box))
    return found


def test_the_singer_is_named_on_a_stable_track(named) -> None:
    longest = max(named[LIN].values(), key=len)
    assert len(longest) > 90
    assert len(named[LIN]) <= 3


def test_nobody_is_given_a_name_that_is_not_theirs(named) -> None:
    wrong = [
        (name, track, index)
        for name, tracks in named.items()
        for track, seen in tracks.items()
        for index, box in seen
        if who(index, box) != name
    ]
    assert wrong == []


@pytest.mark.xfail(
    strict=True,
    reason="the pianist is 25 px wide for 0.6 s, then in profile: similarity 0.17 to his portrait",
)
def test_the_pianist_is_named(named) -> None:
    assert max((len(seen) for seen in named[ALEX].values()), default=0) >= 5
