"""Sources: files are never dropped, live ones are watched, and all errors are clear."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from conftest import picture

from edgeface import video
from edgeface.errors import ImageError, SourceError
from edgeface.video import LiveOptions, frames


def clip(path: Path, n: int = 30, fps: float = 10.0) -> Path:
    """A clip whose frame i has brightness 8 i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 48))
    for i in range(n):
        writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    writer.release()
    return path


def test_every_frame_of_a_file_with_its_media_time(tmp_path: Path) -> None:
    got = []
    for frame in frames(clip(tmp_path / "a.mp4")):
        got.append(frame)
        time.sleep(0.002)  # a slow reader loses nothing
    assert [f.index for f in got] == list(range(30))
    np.testing.assert_allclose([f.time for f in got], np.arange(30) / 10, atol=1e-3)
    assert [round(float(f.image.mean()) / 8) for f in got] == list(range(30))
    assert video.length(tmp_path / "a.mp4") == 30
    assert video.rate(tmp_path / "a.mp4") == pytest.approx(10.0)


def test_a_folder_of_pictures_in_order_of_name(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), 50 * i, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    got = list(frames(tmp_path, folder_fps=2))
    assert [int(f.image.mean()) for f in got] == [0, 50, 100]
    assert [f.time for f in got] == [0.0, 0.5, 1.0]
    assert video.length(tmp_path) == 3


def test_a_damaged_picture_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"b\.jpg"):
        list(frames(tmp_path))


@pytest.mark.parametrize(
    ("source", "index"),
    [("0", 0), ("cam0", 0), ("cam12", 12), ("/dev/video3", 3), ("camera", None), ("x.mp4", None)],
)
def test_names_of_cameras(source: str, index: int | None) -> None:
    assert video.camera_index(source) == index


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    for source, says in [
        (tmp_path / "none.mp4", "no file, folder, camera"),
        (tmp_path, "no pictures"),
        ("cam97", "edgeface doctor"),
    ]:
        with pytest.raises(SourceError, match=says):
            list(frames(source))


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    for name, data in [("empty.mp4", b""), ("text.mp4", b"hello " * 99)]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=name):
            list(frames(tmp_path / name))


def test_a_video_that_ends_early_says_so_after_its_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(60):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    data = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    got = []
    with pytest.raises(SourceError, match="of 60 frames"):
        for frame in frames(cut):
            got.append(frame)
    assert 20 < len(got) < 40


def test_an_unreachable_address_fails_soon_and_hides_the_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(SourceError, match="check the address") as caught:
        list(frames(f"http://bob:secret@127.0.0.1:{port}/x", live=LiveOptions(open_timeout=2.0)))
    assert time.monotonic() - started < 20
    assert "secret" not in str(caught.value)
    assert "***@127.0.0.1" in str(caught.value)


class FakeCapture:
    """A camera that follows a script: 'f' a frame, 'x' the end, 's' silence for a while."""

    script: ClassVar[list[str]] = []

    def __init__(self, *args: object) -> None:
        self.steps = list(FakeCapture.script.pop(0)) if FakeCapture.script else []
        self.opened = bool(self.steps)

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def set(self, *args: object) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        step = self.steps.pop(0) if self.steps else "x"
        if step == "s":
            time.sleep(0.6)
            return False, None
        time.sleep(0.02)
        return (True, np.zeros((4, 4, 3), np.uint8)) if step == "f" else (False, None)

    def release(self) -> None:
        self.opened = False


def live(monkeypatch: pytest.MonkeyPatch, script: list[str], options: LiveOptions) -> list[float]:
    FakeCapture.script = list(script)
    monkeypatch.setattr(video.cv2, "VideoCapture", FakeCapture)
    times = []
    with pytest.raises(SourceError, match="gave up after 1 retries"):
        for frame in frames("rtsp://camera/1", live=options):
            times.append(frame.time)
    return times


def test_a_live_source_reconnects_and_its_clock_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    options = LiveOptions(stall=0.3, retries=1, pause=0.01)
    times = live(monkeypatch, ["fff", "ff", ""], options)
    assert 3 <= len(times) <= 5
    assert times[0] == 0.0
    assert times == sorted(times)


def test_a_silent_source_is_given_up_and_reopened(monkeypatch: pytest.MonkeyPatch) -> None:
    options = LiveOptions(stall=0.2, open_timeout=0.2, retries=1, pause=0.01)
    started = time.monotonic()
    assert len(live(monkeypatch, ["fs", "f", ""], options)) == 2
    assert time.monotonic() - started < 3


def test_a_slow_consumer_gets_the_newest_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCapture.script = ["f" * 30]
    monkeypatch.setattr(video.cv2, "VideoCapture", FakeCapture)
    reader = video._Reader("rtsp://x", LiveOptions())
    time.sleep(0.3)
    _, first = reader.newest(1.0)
    assert time.monotonic() - first < 0.1
    assert reader.dropped >= 5
    reader.close()


def test_no_reader_thread_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCapture.script = ["f" * 500]
    monkeypatch.setattr(video.cv2, "VideoCapture", FakeCapture)
    source = frames("rtsp://x")
    next(source)
    source.close()
    time.sleep(0.2)
    assert not [t for t in threading.enumerate() if t.name == "edgeface-reader"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://u:p@h:554/s", "rtsp://***@h:554/s"),
        ("rtsp://h/s", "rtsp://h/s"),
        ("http://u:p%40q@h/x?token=1", "http://***@h/x?token=1"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert video.redact(url) == shown
