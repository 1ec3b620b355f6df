"""Is an event that a client saw ever lost? A service that logs events as fast as it can is killed.

In each round `tests/serve_child.py` is killed (signal 9) at a random moment while a client reads
its stream; the client of the next round goes on behind the last event it saw (`Last-Event-ID`).
Then `kill9.seen` events were seen in `kill9.rounds`; `kill9.lost` of them are not in the log,
`kill9.missed` of the log came between two that were seen and were not sent, and `kill9.doubled`
came twice.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from edgeface.gallery import Gallery
from edgeface.sightings import Sightings

ROOT = Path(__file__).parents[1]
TOKEN = "admin-" + "a" * 20  # that of the child
BOUND = 60.0  # seconds for it to start


def read(port: int, after: str | None) -> list[str]:
    """The ids of the events of a stream, until it breaks off; those that came whole."""
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {TOKEN}"}
    if after is not None:
        headers["Last-Event-ID"] = after
    ids, message = list[str](), dict[str, str]()
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=BOUND)
        connection.request("GET", "/v1/events", headers=headers)
        answer = connection.getresponse()
        while line := answer.readline():
            text = line.decode().removesuffix("\n")
            if text:
                key, _, value = text.partition(":")
                message[key] = value.removeprefix(" ")
                continue
            if "id" in message and message.get("event") != "start":
                ids.append(message["id"])
            message = {}
    except (OSError, HTTPException):
        pass  # killed
    return ids


def kill(folder: Path, rounds: int) -> dict[str, float]:
    """See the module's text."""
    chance, path, seen = random.Random(7), folder / "killed.gallery", list[str]()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    for _ in range(rounds):
        child = subprocess.Popen(
            [sys.executable, ROOT / "tests/serve_child.py", path, str(port)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError("the service that is to be killed did not start")
        timer = threading.Timer(chance.uniform(0.2, 0.8), child.kill)
        timer.start()
        try:
            seen += read(port, seen[-1] if seen else None)
        finally:
            child.kill()
            child.communicate()
            timer.join()
    with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
        log = [event["id"] for event in store.events(None, 10**8)]
    return compared(seen, log) | {"kill9.rounds": float(rounds)}


def compared(seen: list[str], log: list[str]) -> dict[str, float]:
    """What a client saw, against the log."""
    there, places = set(seen), {number: place for place, number in enumerate(log)}
    found = [places[number] for number in seen if number in places]
    between = log[min(found) : max(found) + 1] if found else []
    return {
        "kill9.seen": float(len(seen)),
        "kill9.lost": float(sum(number not in places for number in there)),
        "kill9.missed": float(sum(number not in there for number in between)),
        "kill9.doubled": float(len(seen) - len(there)),
    }
