"""Who is to be seen in the clips, what a name is worth, and how peers are met."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from bench import peers
from bench.pipeline_clips import ALEX, LIN, Clip, clips, hamilton, judge, scaled
from bench.pipeline_idle import cameras, idle, saved
from bench.pipeline_stages import Stopwatch, breakdown

sys.path.insert(0, str(ROOT / "bench" / "peers"))
import protocol


def test_names_are_judged_in_the_frames_of_the_clip_at_any_width() -> None:
    clip = Clip("hamilton", Path("x"), (), hamilton)
    seen = [
        [5, 520, 40, 566, 100, LIN],  # the singer, right
        [5, 55, 180, 80, 220, LIN],  # the pianist under the singer's name
        [5, 55, 180, 80, 220, None],
        [5, 300, 180, 330, 220, ALEX],  # audience
        [100, 200, 40, 300, 160, LIN],
    ]
    assert judge(clip, seen, 640) == (2, 2)
    double = [[i, *(2 * np.array(box)).tolist(), name] for i, *box, name in seen]
    assert judge(clip, double, 1280) == (2, 2)
    assert judge(Clip("own", Path("x"), ()), seen, 640) == (0, 0)


def test_a_clip_is_scaled_with_all_its_frames(tmp_path: Path) -> None:
    (sample,) = clips(tmp_path)
    assert sample.name == "sample"
    small = scaled(sample, 320, tmp_path)
    capture = cv2.VideoCapture(str(small.file))
    sides = [capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    assert sides == [320, 180]
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 200


def test_a_peer_that_is_not_there_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for peer in peers.PEERS:
        assert not peers.ready(tmp_path, peer, tmp_path)
        assert (ROOT / "bench" / "peers" / peer.script).is_file()
    told = capsys.readouterr().err
    assert "face_recognition is left out" in told and "python -m bench.peers" in told


def test_the_project_itself_answers_as_a_peer_does(sample: Path) -> None:
    options = ["--clip", str(sample / "clip.mp4"), "--people", str(sample / "eileen.jpg")]
    options += ["--limit", "8", "--every", "5", "--offset", "2"]
    answer = peers.run(sys.executable, "with_edgeface.py", options, PYTHONPATH=str(ROOT))
    assert answer["frames"] == 8
    assert answer["seconds"] > 0 and answer["cpu_seconds"] > 0 and answer["peak_mb"] > 20
    (clip,) = clips(Path("/nowhere"))
    right, wrong = judge(clip, answer["seen"], 640)
    assert (right > 4, wrong) == (True, 0)
    assert {row[0] % 5 for row in answer["seen"]} == {2}


def test_frames_are_taken_in_turns(sample: Path) -> None:
    taken = [index for index, *_ in protocol.frames(sample / "clip.mp4", 8, 3)]
    assert taken == list(range(3, 200, 8))


def test_the_nearest_person_needs_the_threshold() -> None:
    people = protocol.Nearest(0.6)
    people.add("ann", np.array([2.0, 0.0]))
    people.add("bea", np.array([0.0, 3.0]))
    assert people.name(np.array([1.0, 0.2])) == "ann"
    assert people.name(np.array([-1.0, 0.2])) is None


def test_the_peers_align_as_edgeface_does(rng: np.random.Generator) -> None:
    from edgeface.alignment import TEMPLATE

    image = cv2.GaussianBlur(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8), (9, 9), 0)
    turned = (TEMPLATE + 40).astype(np.float32)
    crop = protocol.align(image, turned)
    np.testing.assert_allclose(crop, image[40:152, 40:152], atol=1)


def test_nested_time_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr("bench.pipeline_stages.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    with watch("outer"), watch("inner"):
        pass
    assert watch.seconds == {"inner": 2.0, "outer": 8.0}


def test_every_stage_takes_some_of_the_time() -> None:
    from edgeface import describe

    (clip,) = clips(Path("/nowhere"))
    align = describe.align
    spent = breakdown(clip, runtime="onnxruntime", threads=1, limit=6)
    assert describe.align is align
    stages = {"decode", "detect", "track", "align", "quality", "embed", "gallery", "decide"}
    assert set(spent) == stages | {"follow", "draw"}
    assert all(value > 0 for value in spent.values())
    assert spent["detect"] > spent["decide"]


def test_an_idle_camera_costs_a_fraction_of_a_clip(tmp_path: Path) -> None:
    spent = idle(quick=True)
    assert set(spent) == {"idle.640x360.cpu_ms", "idle.1920x1080.cpu_ms"}
    assert all(0 < ms < 8 for ms in spent.values())  # processor time: a whole look takes 7 and more
    assert 0.2 < saved(clips(tmp_path)[0], (640, 360), 1, 60) < 1.1
    assert 0.01 < cameras(clips(tmp_path)[0], tmp_path, 30) < 0.6
