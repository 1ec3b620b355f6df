"""How long from a camera's frame to a client of the stream of events.

`edgeface serve` watches four cameras (`bench/service_cameras.py`) over an empty gallery, so that
strangers are numbered as at home. For every event that is told of the frame at hand (`seen`,
`identified`, `changed`), `cameras4.latency_ms` is from its `ts`, the wall clock at which the frame
was taken from the camera, to the moment at which an HTTP client of `/v1/events` on the same machine
has read it: the wait for the describer, detection, tracking, embedding, the write to the log and
the stream. `lost` is left out: it tells of the last sight, seconds ago by design. Of these
`latency_p50_ms`, `latency_p95_ms` and `latency_max_ms` are given, and `latency_events`, how many
there were. `latency_cores` is how many cores the service was given meanwhile, `machine_load` how
many processes ran or waited: on a machine that is busy with other things, frames wait for a core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

Figures = dict[str, float | str | None]
ROOT = Path(__file__).parents[1]
TOLD_AT_ONCE = ("seen", "identified", "changed")
TOKEN = "bench-of-the-service-0000"
BOUND = 60.0  # seconds for all cameras to come


@contextmanager
def service(folder: Path, *urls: str) -> Iterator[tuple[str, int, int]]:
    """`edgeface serve` with these cameras; its host, port and process id."""
    settings = folder / "serve.toml"
    lines = [f'gallery = "{folder / "s.gallery"}"', f'token = "{TOKEN}"', "port = 0", "threads = 1"]
    for number, url in enumerate(urls):
        lines += ["[[cameras]]", f'name = "camera{number}"', f'source = "{url}"']
    settings.write_text("\n".join(lines), encoding="utf-8")
    child = subprocess.Popen(
        [sys.executable, "-m", "edgeface.cli", "serve", str(settings)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert child.stderr is not None
        said = child.stderr.readline()
        if "http://" not in said:
            raise RuntimeError(f"the service did not start: {said}{child.stderr.read()}")
        there = urlsplit(said[said.index("http://") :])
        threading.Thread(target=child.stderr.read, daemon=True).start()
        yield there.hostname or "", there.port or 0, child.pid
    finally:
        child.terminate()
        child.wait(BOUND)


class Listener:
    """A client of the stream. `arrived` has an event and the Unix time (s) of its arrival each."""

    def __init__(self, host: str, port: int) -> None:
        self.arrived: list[tuple[dict[str, object], float]] = []
        self._connection = HTTPConnection(host, port, timeout=BOUND)
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {TOKEN}"}
        self._connection.request("GET", "/v1/events", headers=headers)
        self._answer = self._connection.getresponse()
        if self._answer.status != 200:
            raise RuntimeError(f"the stream answers {self._answer.status}")
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self) -> None:
        try:
            while line := self._answer.readline():
                now = time.time()
                if line.startswith(b"data: "):
                    self.arrived.append((json.loads(line[6:]), now))
        except (OSError, HTTPException, ValueError, AttributeError):
            return  # the service has ended


def running(host: str, port: int) -> int:
    """How many cameras run."""
    connection = HTTPConnection(host, port, timeout=BOUND)
    connection.request("GET", "/v1/cameras", headers={"Authorization": f"Bearer {TOKEN}"})
    found = json.loads(connection.getresponse().read())
    connection.close()
    return sum(camera["state"] == "running" for camera in found["cameras"])


def busy(pid: int) -> float:
    """Processor time (s) that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def delays(arrived: list[tuple[dict[str, object], float]], since: float) -> list[float]:
    """Milliseconds from frame to arrival of the events that are told at once, of frames taken
    after the Unix time `since` (s)."""
    found = list[float]()
    for event, now in arrived:
        if event.get("event") in TOLD_AT_ONCE:
            taken = datetime.fromisoformat(str(event["ts"])).timestamp()
            if taken >= since:
                found.append(1e3 * (now - taken))
    return found


def latency(folder: Path, url: str, count: int, seconds: float) -> dict[str, float]:
    """See the module's text; the first seconds, in which the cameras come, are left out."""
    with service(folder, *[url] * count) as (host, port, pid):
        listener = Listener(host, port)
        end = time.monotonic() + BOUND
        while running(host, port) < count:
            if time.monotonic() > end:
                raise RuntimeError(f"not all of {count} cameras came within {BOUND:g} s")
            time.sleep(0.2)
        time.sleep(min(5.0, seconds))
        since, used = time.time(), busy(pid)
        time.sleep(seconds)
        cores = (busy(pid) - used) / (time.time() - since)
        found = delays(list(listener.arrived), since)
    if not found:
        raise RuntimeError(f"no event came in {seconds:g} s")
    half, most, worst = np.percentile(found, [50, 95, 100]).tolist()
    return {
        "latency_p50_ms": half,
        "latency_p95_ms": most,
        "latency_max_ms": worst,
        "latency_events": float(len(found)),
        "latency_cores": cores,
        "machine_load": os.getloadavg()[0],
    }
