"""Sources: files are never dropped, live ones are watched, and all errors are clear."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from conftest import ROOT, SHARED

from edgeface import video
from edgeface.errors import ArgumentError, CameraError, SourceError
from edgeface.types import Frame
from edgeface.video import LiveOptions, frames
from edgeface.video.probe import Trouble


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
    options = LiveOptions(open_timeout=2.0, retries=1, pause=0.1)
    with pytest.raises(CameraError, match="refuses the connection") as caught:
        list(frames(f"http://bob:secret@127.0.0.1:{port}/x", live=options))
    assert time.monotonic() - started < 20
    assert "secret" not in str(caught.value)
    assert "gave up after 1 retries" in str(caught.value)
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

    def get(self, *args: object) -> float:
        return 0.0

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
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    times = []
    monkeypatch.setattr(video.live, "probe", lambda *_: Trouble())
    with pytest.raises(CameraError, match="gave up after 1 retries"):
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
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    reader = video.live._Reader("rtsp://x", LiveOptions())
    time.sleep(0.3)
    taken = reader.newest(1.0, lambda: False)
    assert taken is not None and time.monotonic() - taken.time < 0.1
    assert reader.dropped >= 5
    reader.close()


def test_no_reader_thread_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCapture.script = ["f" * 500]
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    source = frames("rtsp://x")
    next(source)
    source.close()
    assert not [t for t in threading.enumerate() if t.name == "edgeface-reader"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://u:p@h:554/s", "rtsp://***@h:554/s"),
        ("rtsp://h/s", "rtsp://h/s"),
        ("http://u:p%40q@h/x?token=1", "http://***@h/x?token=***"),
        ("rtsp://admin:s3c#ret@h/x", "rtsp://***@h/x"),
        ("rtsp://admin:s3c/r?e[t@h:554/x", "rtsp://***@h:554/x"),
        ("RTSP://admin:secret@h/x", "RTSP://***@h/x"),
        (" rtsp://admin:secret@h/x", "rtsp://***@h/x"),
        ("rtsp://h/user=bob&password=secret&channel=1", "rtsp://h/user=***&password=***&channel=1"),
        ("http://h/video?usr=bob&pwd=secret", "http://h/video?usr=***&pwd=***"),
        ("http://h/monkey=1&hotkey=2", "http://h/monkey=1&hotkey=2"),
        ("a.mp4", "a.mp4"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert video.redact(url) == shown


# What files get wrong


def program(*words: object) -> None:
    """Run ffmpeg."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words)], check=True)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4", "ts"])
def test_sound_that_is_longer_than_the_picture_is_no_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    codecs = ["-c:v", "libvpx", "-c:a", "libopus"] if suffix == "webm" else []
    picture, sound = "testsrc=d=1:r=25:s=64x48", "sine=d=6"
    program("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, *codecs, path)
    assert len(list(frames(path))) in {24, 25}


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_rate_that_varies_is_no_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    fast = "select=lt(t\\,0.5)+gte(t\\,0.5)*not(mod(n\\,10)),setpts=PTS"
    program("-f", "lavfi", "-i", "testsrc=d=4:r=50:s=64x48", "-vf", fast, "-fps_mode", "vfr", path)
    got = list(frames(path))
    assert 40 < len(got) < 48
    assert got[-1].time > 3


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4", "avi"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_file_cut_short_is_told_whatever_its_container(
    tmp_path: Path, suffix: str, share: float
) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    codec = ["-c:v", "libvpx"] if suffix == "webm" else ["-c:v", "mpeg4"]
    flags = ["-movflags", "+faststart"] if suffix == "mp4" else []
    program("-f", "lavfi", "-i", "testsrc=d=4:r=25:s=320x240", *codec, *flags, whole)
    assert len(list(frames(whole))) == 100
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SourceError, match=r"cut short|not a video"):
        list(frames(cut))


def test_a_recording_that_was_never_ended_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    # A live Matroska has no sizes: nothing says that it is cut.
    program("-f", "lavfi", "-i", "testsrc=d=1:r=25:s=64x48", "-live", 1, path)
    assert len(list(frames(path))) == 25


@pytest.mark.parametrize(
    ("ratio", "shape"), [("2/1", (48, 128)), ("1/2", (96, 64)), ("1/1", (48, 64))]
)
def test_pixels_that_are_not_square_are_made_so(
    tmp_path: Path, ratio: str, shape: tuple[int, int]
) -> None:
    path = tmp_path / "a.mp4"
    wide = f"setsar={ratio}"
    program("-f", "lavfi", "-i", "testsrc=d=0.2:r=25:s=64x48", "-vf", wide, path)
    assert next(frames(path)).image.shape[:2] == shape


def test_a_decoder_that_hands_back_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(tmp_path / "a.mp4")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    FakeCapture.script = ["x"]
    with pytest.raises(SourceError, match="decodes none of its frames"):
        list(frames(path))
    monkeypatch.setattr(FakeCapture, "read", lambda _: (True, np.zeros((4, 4, 3), np.uint16)))
    FakeCapture.script = ["f"]
    with pytest.raises(SourceError, match=r"no .H, W, 3. uint8 picture"):
        list(frames(path))


def test_frames_know_where_and_when_they_are_from(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 3)
    before = datetime.now(UTC)
    got = list(frames(path))
    assert {f.source for f in got} == {str(path)}
    assert before <= got[0].at <= got[-1].at <= datetime.now(UTC)
    assert next(frames(path, name="door")).source == "door"


@pytest.mark.parametrize("time", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_no_number_is_refused(time: float) -> None:
    with pytest.raises(ArgumentError, match="seconds"):
        Frame(np.zeros((4, 4, 3), np.uint8), time, 0)


def test_names_that_no_file_has_are_refused() -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(SourceError):
            list(frames(name))


@pytest.mark.parametrize(
    "options", [{"stall": 0}, {"pause": float("nan")}, {"retries": -1}, {"open_timeout": -1}]
)
def test_options_of_a_camera_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(ArgumentError):
        LiveOptions(**options)


@pytest.mark.parametrize("name", ["long_sound.mkv", "varying.mkv"])
def test_the_files_that_were_called_damaged(name: str) -> None:
    path = SHARED / "cases/files" / name
    if not path.exists():
        pytest.skip("../shared/cases is not beside the checkout")
    assert len(list(frames(path))) > 20


def test_a_video_for_which_there_is_no_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(tmp_path / "a.mp4")
    opened = cv2.VideoCapture

    class Starved:
        """A capture that gets no memory for its fifth frame."""

        def __init__(self, *args: object) -> None:
            self._real, self._left = opened(*args), 4

        def read(self) -> tuple[bool, np.ndarray | None]:
            self._left -= 1
            return self._real.read() if self._left >= 0 else (False, None)

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    monkeypatch.setattr(cv2, "VideoCapture", Starved)
    monkeypatch.setattr(video.files, "memory_left", lambda: 5 << 20)
    with pytest.raises(SourceError, match=r"after 4 of 30 frames, with 5 MB left .*ulimit -v"):
        list(frames(path))
    monkeypatch.setattr(video.files, "memory_left", lambda: 5 << 30)
    with pytest.raises(SourceError, match="damaged or cut short"):
        list(frames(path))


def test_the_memory_that_is_left_is_measured() -> None:
    code = (
        "import resource; from edgeface.video.files import memory_left as left; print(left()); "
        "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)); print(left() >> 20)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    before, after = done.stdout.split()
    assert before == "None"
    assert 4096 < int(after) < 8192
