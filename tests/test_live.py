"""Watching a real stream: it ends cleanly however it ends, and says what keeps it from beginning.

The camera is GStreamer's RTSP server on loopback, which shows the sample clip.
`EDGEFACE_LIVE_ROUNDS` sets how often each way of ending is tried.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT

from edgeface.errors import CameraError
from edgeface.stopping import Stop
from edgeface.types import Frame
from edgeface.video import LiveOptions, frames
from edgeface.video.probe import probe

ROUNDS = int(os.environ.get("EDGEFACE_LIVE_ROUNDS", "2"))
SYSTEM_PYTHON = "/usr/bin/python3"
BOUND = 30.0  # seconds; a busy machine needs a few, a hung one would need for ever
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

Serve = Callable[..., str]


@pytest.fixture(scope="module")
def serve(sample: Path) -> Iterator[Serve]:
    """Start an RTSP camera, with `USER:PASSWORD` or without; gives its address."""
    try:
        asked = [SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"]
        there = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except OSError:
        there = False
    if not there:
        reason = "GStreamer's RTSP server is not installed (gir1.2-gst-rtsp-server-1.0)"
        if os.environ.get("EDGEFACE_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    running: list[subprocess.Popen[str]] = []

    def start(*secret: str) -> str:
        command = [SYSTEM_PYTHON, str(ROOT / "tests/rtsp_server.py"), str(sample / "clip.mp4")]
        process = subprocess.Popen([*command, *secret], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def camera(serve: Serve) -> str:
    return serve()


def identify(*options: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgeface.cli", "identify", "--json", "--video", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM] * ROUNDS)
def test_a_signal_ends_a_watch_and_everything_is_finished(
    camera: str, tmp_path: Path, number: int
) -> None:
    watch = identify(camera, "--out", "out.mp4", "--plot", "plot.png", cwd=tmp_path)
    events: list[dict[str, object]] = []
    with watch:
        assert watch.stdout is not None and watch.stderr is not None
        for line in watch.stdout:
            if not events:
                watch.send_signal(number)
                timer = threading.Timer(BOUND, watch.kill)
                timer.start()
            events.append(json.loads(line))
        messages = watch.stderr.read()
    timer.cancel()
    assert watch.returncode == 0, messages
    seen, lost = ({e["track"] for e in events if e["event"] == kind} for kind in ("seen", "lost"))
    assert seen == lost != set()
    assert int(cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)) > 0
    assert cv2.imread(str(tmp_path / "plot.png")) is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "plot.png"]


BREAKING = """
import sys, threading, edgeface as ef
with ef.Identifier.open(sys.argv[2]) as app:
    for event in app.watch(sys.argv[1]):
        print(event.kind, flush=True)
        break
    assert not [t for t in threading.enumerate() if t.name == "edgeface-reader"]
    assert app.sightings == []
"""


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_a_break_out_of_a_watch_leaves_no_thread_behind(
    camera: str, tmp_path: Path, turn: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BREAKING, camera, str(tmp_path / "g")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "seen\n"), done.stderr


def test_a_signal_ends_the_waiting_for_a_camera_that_never_comes(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused
        watch = identify(f"rtsp://127.0.0.1:{taken.getsockname()[1]}/x", cwd=tmp_path)
        assert watch.stderr is not None
        assert "refuses the connection" in watch.stderr.readline()
        watch.send_signal(signal.SIGTERM)
        watch.communicate(timeout=BOUND)
    assert watch.returncode == 0


@pytest.mark.parametrize(
    ("secret", "says"),
    [("", "wants a user and a password"), ("bob:wrong@", "does not accept this user and password")],
)
def test_a_password_that_is_wrong_or_missing_is_told(
    serve: Serve, tmp_path: Path, secret: str, says: str
) -> None:
    address = serve("bob:right").replace("rtsp://", f"rtsp://{secret}")
    watch = identify(address, cwd=tmp_path)
    _, messages = watch.communicate(timeout=BOUND)
    assert (watch.returncode, says in messages) == (2, True), messages
    assert "wrong" not in messages


def test_the_right_password_lets_in_and_a_wrong_name_is_told(serve: Serve) -> None:
    address = serve("bob:right").replace("rtsp://", "rtsp://bob:right@")
    assert probe(address, 5.0).text == ""
    assert next(frames(address)).image.shape == (360, 640, 3)
    gone = probe(address.replace("/cam", "/none"), 5.0)
    assert (gone.final, "no stream of this name" in gone.text) == (True, True)


def test_what_keeps_a_camera_away_is_told_apart() -> None:
    with socket.socket() as quiet:
        quiet.bind(("127.0.0.1", 0))
        port = quiet.getsockname()[1]
        assert "refuses" in probe(f"rtsp://127.0.0.1:{port}/x", 1.0).text
        quiet.listen()  # takes the call and says nothing
        assert "does not answer" in probe(f"rtsp://127.0.0.1:{port}/x", 0.3).text
    assert "no address is known" in probe("rtsp://no-such-host.invalid/x", 1.0).text
    assert probe("rtsp://[::1/x", 1.0).final
    assert not probe("udp://127.0.0.1", 1.0).text


def test_a_camera_that_is_not_there_is_of_the_environment(tmp_path: Path) -> None:
    watch = identify("cam97", cwd=tmp_path)
    _, messages = watch.communicate(timeout=BOUND)
    assert (watch.returncode, "no /dev/video97" in messages) == (2, True)


class Pictures(BaseHTTPRequestHandler):
    """A camera that sends JPEGs one after the other, behind a password where `secret` is set."""

    secret: str | None = None
    count = 500  # pictures until it hangs up
    picture = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.secret and f'response="{self.secret}"' not in self.headers.get("Authorization", ""):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Digest realm="cam", nonce="abc", qop="auth"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=b")
        self.end_headers()
        try:
            for _ in range(self.count):
                head = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
                self.wfile.write(head % len(self.picture) + self.picture + b"\r\n")
                time.sleep(0.02)
        except OSError:
            return


@contextmanager
def pictures(port: int = 0) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", port), Pictures)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_the_first_connection_is_tried_again_like_later_ones() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    got: list[Frame] = []
    options = LiveOptions(pause=0.2, pause_max=0.2)

    def wait() -> None:
        for frame in frames(f"http://127.0.0.1:{port}/v.mjpg", live=options, name="door"):
            got.append(frame)
            return

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.7)
    assert not got
    with pictures(port):
        waiting.join(BOUND)
    assert (got[0].source, got[0].index, got[0].time) == ("door", 0, 0.0)


def test_a_digest_is_proved_as_the_standard_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand, RFC 2617: MD5(MD5("bob:cam:right"):abc:00000001:65646765:auth:MD5("GET:/v")).
    monkeypatch.setattr(Pictures, "secret", "e4ddf088c02e8f6c68fe325ab1c917e8")
    with pictures() as port:
        wrong = probe(f"http://bob:wrong@127.0.0.1:{port}/v", 2.0)
        assert (wrong.final, "does not accept" in wrong.text) == (True, True)
        assert probe(f"http://bob:right@127.0.0.1:{port}/v", 2.0).text == ""


def test_should_stop_is_asked_while_a_source_is_silent() -> None:
    with socket.socket() as quiet:
        quiet.bind(("127.0.0.1", 0))
        quiet.listen()
        stop = Stop()
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        address = f"http://127.0.0.1:{quiet.getsockname()[1]}/v"
        options = LiveOptions(open_timeout=1.0, stall=1.0)
        assert list(frames(address, live=options, should_stop=stop)) == []
        assert time.monotonic() - started < 5


def test_retries_are_counted_from_the_first_connection() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"rtsp://127.0.0.1:{taken.getsockname()[1]}/x"
        options = LiveOptions(retries=2, pause=0.05)
        with pytest.raises(CameraError, match=r"refuses the connection .* gave up after 2 retries"):
            next(frames(address, live=options))
