"""Cameras of one process on real streams: GStreamer's RTSP server on loopback shows the sample clip
(640x360, 25 frames a second) over and over. One that is to be cut is reached through a relay.

`cameras4.fps_min` is the slowest camera's processed frames per second; on a busy machine
`cameras4.cpu_ms`, the processor time of the process per processed frame, says more: four cameras
with all frames fit into two cores as long as it stays below 20. `cameras4.rss_mb` is the resident
memory in all, `cameras4.base_mb` that before the first camera, with both networks loaded;
`second_camera_mb` what a second one adds to the first. `cuts.recovered` counts the cuts after which
frames came again, with one `camera_lost` and one `camera_back` told in between, of `cuts.made`;
`cuts.grown_mb`, `cuts.grown_threads` and `cuts.grown_fds` are what the process gained from the
third cut to the last. With `--minutes` the cuts are spread over so long, else each follows the
recovery from the last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from bench.pipeline_clips import SAMPLE
from bench.service_latency import latency

Figures = dict[str, float | str | None]
ROOT = Path(__file__).parents[1]
SYSTEM_PYTHON = "/usr/bin/python3"  # GStreamer's bindings are the system's
BOUND = 60.0  # seconds for a camera to come


class Relay:
    """A port that leads to another one until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._there, self._open = (host, port), list[socket.socket]()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Hang up on everybody; who calls again is let through."""
        while self._open:
            with suppress(OSError):  # it has hung up by itself
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._listening.accept()
            far = socket.create_connection(self._there)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


@contextmanager
def served(folder: Path, minutes: float) -> Iterator[str]:
    """The address of an RTSP camera that shows the sample clip for some minutes."""
    film = folder / "long.mp4"
    loops = max(int(minutes * 60 / 8), 1)  # the clip has 8 s
    command = ["ffmpeg", "-v", "error", "-stream_loop", str(loops), "-i", str(SAMPLE / "clip.mp4")]
    subprocess.run([*command, "-c", "copy", "-an", film], check=True)
    server = subprocess.Popen(
        [SYSTEM_PYTHON, ROOT / "tests" / "rtsp_server.py", film], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


@contextmanager
def watched(*urls: str) -> Iterator[subprocess.Popen[str]]:
    """A process that watches these cameras and answers questions, see `_answer`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.service_cameras", *urls],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        yield child
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(BOUND)


def ask(child: subprocess.Popen[str], question: str = "state") -> dict[str, float]:
    """One answer of `watched`."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(question + "\n")
    child.stdin.flush()
    answer: dict[str, float] = json.loads(child.stdout.readline())
    return answer


def wait_for(child: subprocess.Popen[str], key: str, least: float) -> dict[str, float] | None:
    """The first answer in which `key` is at least so much; None if that does not come."""
    end = time.monotonic() + BOUND
    while time.monotonic() < end:
        answer = ask(child)
        if answer[key] >= least:
            return answer
        time.sleep(0.1)
    return None


def together(url: str, count: int, seconds: float) -> dict[str, float]:
    """`count` cameras for some seconds after all have come."""
    with watched(*[url] * count) as child:
        base = ask(child, "start")
        if wait_for(child, "frames_min", 50) is None:
            raise RuntimeError(f"not all of {count} cameras came within {BOUND:g} s")
        first = ask(child)
        time.sleep(seconds)
        last = ask(child)
    took = last["clock"] - first["clock"]
    frames = last["frames"] - first["frames"]
    return {
        "fps_min": (last["frames_min"] - first["frames_min"]) / took,
        "cpu_ms": 1e3 * (last["cpu"] - first["cpu"]) / frames,
        "rss_mb": last["rss_mb"],
        "base_mb": base["rss_mb"],
        "threads": last["threads"],
    }


def cut(url: str, cuts: int, minutes: float) -> Figures:
    """One camera that is cut again and again, spread over some minutes."""
    there = urlsplit(url)
    relay = Relay("127.0.0.1", there.port or 554)
    recovered, marks = 0, list[dict[str, float]]()
    with watched(f"rtsp://127.0.0.1:{relay.port}{there.path}") as child:
        ask(child, "start")
        wait_for(child, "frames_min", 5)
        begun = time.monotonic()
        for number in range(cuts):
            due = begun + 60 * minutes * (number + 1) / cuts
            time.sleep(max(0.0, due - time.monotonic()))
            relay.cut()
            lost = wait_for(child, "lost", number + 1)
            back = lost and wait_for(child, "back", number + 1)
            done = back and wait_for(child, "frames_min", back["frames_min"] + 5)
            recovered += bool(done and done["lost"] == done["back"] == number + 1)
            if done:
                marks.append(done)
    begin, end = marks[min(2, len(marks) - 1)], marks[-1]
    found = {f"cuts.grown_{k}": end[k] - begin[k] for k in ("threads", "fds")}
    found |= {"cuts.grown_mb": end["rss_mb"] - begin["rss_mb"], "cuts.rss_mb": end["rss_mb"]}
    found |= {"cuts.made": float(cuts), "cuts.recovered": float(recovered)}
    return {**found, "cuts.minutes": (time.monotonic() - begun) / 60}


def figures_of_cameras(args: argparse.Namespace, parts: Collection[str]) -> Figures:
    """See the module's text. `parts` are "cameras", "latency", "cuts". Nothing without ffmpeg and
    GStreamer's server."""
    asked = [SYSTEM_PYTHON, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')"]
    missing = shutil.which("ffmpeg") is None or not Path(SYSTEM_PYTHON).exists()
    if missing or subprocess.run(asked, capture_output=True, check=False).returncode:
        print("service: no ffmpeg or no GstRtspServer: no cameras", file=sys.stderr)
        return {"service.cameras4.fps_min": None, "service.cuts.recovered": None}
    seconds: float = 5.0 if args.quick else args.seconds
    found: Figures = {}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), 60 + args.minutes) as url:
        if "cameras" in parts:
            four, one, two = (together(url, n, seconds) for n in (4, 1, 2))
            found |= {f"cameras4.{key}": value for key, value in four.items()}
            found["second_camera_mb"] = two["rss_mb"] - one["rss_mb"]
        if "latency" in parts:
            told = latency(Path(folder), url, 4, seconds)
            found |= {f"cameras4.{key}": value for key, value in told.items()}
        if "cuts" in parts:
            found |= cut(url, 3 if args.quick else args.cuts, 0.0 if args.quick else args.minutes)
    return {f"service.{key}": value for key, value in found.items()}


def main() -> None:
    """Watch the cameras of the arguments from the first question on; answer each with a line."""
    from edgeface.cameras import Cameras, CameraSpec
    from edgeface.describe import Describer
    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.gallery import Gallery
    from edgeface.settings import Settings
    from edgeface.video import LiveOptions

    told: list[str] = []
    describer = Describer(Detector.load(threads=1), Embedder.load(threads=1))
    settings = Settings(live=LiveOptions(pause=0.2, pause_max=1.0))
    card = describer.embedder.card
    with (
        tempfile.TemporaryDirectory() as folder,
        Gallery.open(Path(folder) / "g.gallery", model=card.digest, size=card.size) as gallery,
    ):
        cameras = Cameras(describer, gallery, settings, tell=lambda e: told.append(e["event"]))
        for question in sys.stdin:
            print(json.dumps(_answer(cameras, told)), flush=True)
            if question.strip() == "start":
                for number, url in enumerate(sys.argv[1:]):
                    cameras.add(CameraSpec(f"camera{number}", url))
        cameras.close()


def _answer(cameras: object, told: list[str]) -> dict[str, float]:
    frames = [camera.state().frames for camera in cameras]  # type: ignore[attr-defined]
    status = Path("/proc/self/status").read_text(encoding="ascii")
    values = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "clock": time.monotonic(),
        "cpu": time.process_time(),
        "frames": sum(frames),
        "frames_min": min(frames, default=0),
        "rss_mb": int(values["VmRSS"].split()[0]) / 1024,
        "threads": int(values["Threads"]),
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "lost": told.count("camera_lost"),
        "back": told.count("camera_back"),
    }


if __name__ == "__main__":
    main()
