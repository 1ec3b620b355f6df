"""The overlay's file: whole or not there, on the source's clock, and playable in a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edgeface import movie
from edgeface.errors import OutputError
from edgeface.movie import OverlayWriter

FFMPEG = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffmpeg is not installed")


def gray(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def count(path: Path) -> int:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


def test_a_video_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with OverlayWriter(path, 10) as writer:
        for i in range(5):
            writer.write(np.zeros((48, 64, 3), np.uint8), i / 10)
        assert not path.exists()
    assert int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("older", [False, True])
def test_opencv_is_quiet_about_encoders_only_while_they_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    levels = []
    logs = SimpleNamespace(getLogLevel=lambda: 3, setLogLevel=levels.append)
    if older:
        monkeypatch.setattr(cv2, "utils", SimpleNamespace())
        monkeypatch.setattr(cv2, "getLogLevel", logs.getLogLevel, raising=False)
        monkeypatch.setattr(cv2, "setLogLevel", logs.setLogLevel, raising=False)
    else:
        monkeypatch.setattr(cv2, "utils", SimpleNamespace(logging=logs))
    assert movie._opened(tmp_path / "x.avi", "MJPG", 10.0, (64, 48)) is not None
    assert movie._opened(tmp_path / "absent" / "x.avi", "MJPG", 10.0, (64, 48)) is None
    assert levels == [0, 3, 0, 3]


def test_an_exception_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError), OverlayWriter(path, 10) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="make it first"):
        OverlayWriter(tmp_path / "none" / "out.mp4", 10)


@pytest.mark.parametrize(("rate", "expected"), [(5, 21), (10, 20), (40, 20)])
def test_the_file_keeps_the_clock_of_the_source(tmp_path: Path, rate: int, expected: int) -> None:
    path = tmp_path / "out.mp4"
    with OverlayWriter(path, 10) as writer:
        for i in range(2 * rate):
            writer.write(np.zeros((48, 64, 3), np.uint8), i / rate)
    frames = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))
    assert abs(frames - expected) <= 2


@pytest.mark.parametrize("jump", [3.0, 86_400.0, 1e9])
def test_a_gap_is_filled_for_two_seconds_at_most(tmp_path: Path, jump: float) -> None:
    path = tmp_path / "out.mp4"
    with OverlayWriter(path, 10) as writer:
        for time in (0.0, 0.1, 0.1 + jump, 0.2 + jump, 0.2 + 2 * jump):
            writer.write(gray(9), time)
    assert 2 * 20 <= count(path) <= 2 * 20 + 5


def test_a_slow_source_keeps_its_clock(tmp_path: Path) -> None:
    with OverlayWriter(tmp_path / "out.mp4", 10) as writer:
        for i in range(5):
            writer.write(gray(9), 1.5 * i)
    assert count(tmp_path / "out.mp4") == 61


def test_frames_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with OverlayWriter(path, 10) as writer:
        writer.write(gray(9), 0.0)
        writer.write(gray(200, 128, 96), 0.1)
    capture = cv2.VideoCapture(str(path))
    shown = [capture.read()[1] for _ in range(2)]
    assert [s.shape for s in shown] == [(48, 64, 3)] * 2
    assert shown[1].mean() > 180


@FFMPEG
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.webm", "vp8")])
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_a_browser_can_play_it(
    tmp_path: Path, name: str, codec: str, size: tuple[int, int]
) -> None:
    path = tmp_path / name
    with OverlayWriter(path, 10) as writer:
        for i in range(12):
            writer.write(gray(20 * i, *size), i / 10)
    asked = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,pix_fmt", "-of", "csv"]
    told = subprocess.run([*asked, str(path)], capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"stream,{codec},yuv420p"


def test_without_an_encoder_for_browsers_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(movie.shutil, "which", lambda _: None)
    opened = movie._opened
    monkeypatch.setattr(
        movie, "_opened", lambda part, code, *a: None if code == "avc1" else opened(part, code, *a)
    )
    with OverlayWriter(tmp_path / "out.mp4", 10) as writer:
        writer.write(gray(9), 0.0)
    assert count(tmp_path / "out.mp4") == 1
    assert "out.mp4 plays in video players but not in browsers" in caplog.text


@FFMPEG
def test_a_program_that_ends_early_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movie, "_opened", lambda *_: None)
    monkeypatch.setitem(movie._OPTIONS, "libx264", ("-no-such-option", "1"))
    writer = OverlayWriter(tmp_path / "out.mp4", 10)
    with pytest.raises(OutputError, match=r"out.*no-such-option"):
        for i in range(100):
            writer.write(gray(9, 640, 480), i / 10)
            writer.close() if i == 50 else None
    writer.discard()
    assert list(tmp_path.iterdir()) == []


PAGE = """<video src="NAME" muted></video><pre>nothing</pre><script>
const video = document.querySelector("video"), said = document.querySelector("pre");
video.onloadeddata = () => { said.textContent = video.videoWidth + "x" + video.videoHeight; };
video.onerror = () => { said.textContent = video.error.message; };
</script>"""


@FFMPEG
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_a_real_browser_plays_it(tmp_path: Path, name: str) -> None:
    with OverlayWriter(tmp_path / name, 10) as writer:
        for i in range(12):
            writer.write(gray(20 * i), i / 10)
    (tmp_path / "page.html").write_text(PAGE.replace("NAME", name))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    command = ["chromium", *options, "--dump-dom", f"file://{tmp_path}/page.html"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "<pre>64x48</pre>" in shown
