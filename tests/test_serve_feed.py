"""The stream of events: nothing lost and nothing doubled, wherever a client left off.

`EDGEFACE_KILL_ROUNDS` sets how often the service is killed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from serve_child import Nothing
from serving import TOKEN, serving

from edgeface.describe import Describer
from edgeface.gallery import Gallery
from edgeface.serve import feed
from edgeface.serve.config import ServiceSettings
from edgeface.serve.service import Service
from edgeface.sightings import Sightings
from edgeface.types import new_run, timestamp

ROUNDS = int(os.environ.get("EDGEFACE_KILL_ROUNDS", "3"))
STREAM = {"Accept": "text/event-stream"}
RUN = new_run()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    nothing = Nothing(tmp_path / "toy.onnx")
    path = tmp_path / "g.gallery"
    with Gallery.open(path, model="toy", size=3) as gallery, Sightings.open(gallery) as store:
        made = Service(ServiceSettings(str(path)), Describer(nothing, nothing), gallery, store)
        yield made
        made.close()


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with serving(service) as it:
        yield it


numbers = itertools.count(1)


def log(service: Service, count: int = 1) -> list[str]:
    """Put some events into the log; their ids."""
    ids = [f"{RUN}-{next(numbers):08}" for _ in range(count)]
    for number in ids:
        about = {"event": "camera_back", "camera": "a\nb\u2028", "ts": timestamp(datetime.now(UTC))}
        service.store.log({"version": 1, "id": number, **about})
    return ids


def blocks(answer: httpx.Response) -> Iterator[dict[str, str]]:
    """The messages of a stream, as the fields of each."""
    fields: dict[str, str] = {}
    for line in lines(answer):
        if line:
            key, _, value = line.partition(":")
            fields[key or "comment"] = value.removeprefix(" ")
        elif fields:
            yield fields
            fields = {}


def lines(answer: httpx.Response) -> Iterator[str]:
    """Lines that end with a newline alone, as the standard has them."""
    held = b""
    for data in answer.iter_raw():
        held += data
        *whole, held = held.split(b"\n")
        yield from (line.decode() for line in whole)


def take(client: httpx.Client, count: int, query: str = "", **headers: str) -> list[str]:
    """The ids of the first `count` events of a stream."""
    found: list[str] = []
    with client.stream("GET", f"/v1/events{query}", headers=STREAM | headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in blocks(answer):
            if "id" in block and block.get("event") != "start":
                assert json.loads(block["data"])["id"] == block["id"]
                found.append(block["id"])
                if len(found) == count:
                    return found
    return found


def test_a_stream_goes_on_behind_the_last_event(service: Service, client: httpx.Client) -> None:
    ids = log(service, 500)
    assert take(client, 499, **{"Last-Event-ID": ids[0]}) == ids[1:]
    assert take(client, 2, f"?after={ids[-3]}") == ids[-2:]


def test_a_stream_without_a_start_begins_now(service: Service, client: httpx.Client) -> None:
    log(service, 20)
    new: list[str] = []

    def later() -> None:
        while not service.feed.clients:
            time.sleep(0.01)
        time.sleep(0.3)
        new.extend(log(service, 3))

    thread = threading.Thread(target=later)
    thread.start()
    assert take(client, 3) == new
    thread.join()


def test_a_client_cut_off_before_it_saw_anything_misses_nothing(
    service: Service, client: httpx.Client
) -> None:
    log(service, 3)
    with client.stream("GET", "/v1/events", headers=STREAM) as answer:
        begun = next(block for block in blocks(answer) if "id" in block)
    assert begun["event"] == "start"
    new = log(service, 4)
    assert take(client, 4, **{"Last-Event-ID": begun["id"]}) == new


def test_many_read_while_many_write(service: Service, client: httpx.Client) -> None:
    (start,) = log(service)
    found: list[list[str]] = []

    def read() -> None:
        found.append(take(client, 200, f"?after={start}"))

    readers = [threading.Thread(target=read) for _ in range(5)]
    writers = [threading.Thread(target=log, args=(service, 50)) for _ in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in readers + writers:
        thread.join(30)
    in_log = [e["id"] for e in service.store.events(start, 1000)]
    assert len(in_log) == len(set(in_log)) == 200
    assert found == [in_log] * 5


def test_a_log_that_does_not_reach_back_says_so(service: Service, client: httpx.Client) -> None:
    log(service, 3)
    with client.stream("GET", "/v1/events", headers={**STREAM, "Last-Event-ID": "gone"}) as answer:
        messages = blocks(answer)
        assert next(messages) == {"retry": "1000"}
        gap = next(messages)
        assert (gap["event"], json.loads(gap["data"])) == ("gap", {"after": "gone"})
        (new,) = log(service)
        assert next(messages)["id"] == new


def test_what_another_process_writes_is_sent_soon(service: Service, client: httpx.Client) -> None:
    (start,) = log(service)
    with (
        Sightings.open(service.gallery) as other,
        client.stream("GET", f"/v1/events?after={start}", headers=STREAM) as answer,
    ):
        messages = blocks(answer)
        next(messages)
        other.log(
            {"id": f"{RUN}-other", "event": "camera_back", "ts": timestamp(datetime.now(UTC))}
        )
        assert next(messages)["id"] == f"{RUN}-other"


def test_a_clock_that_jumps_a_day_back_changes_no_order(
    service: Service, client: httpx.Client
) -> None:
    (start,) = log(service)
    yesterday = timestamp(datetime.now(UTC) - timedelta(days=1))
    for number in ("0-00000002", "0-00000001"):
        service.store.log({"id": number, "event": "camera_back", "ts": yesterday})
    (last,) = log(service)
    assert take(client, 3, f"?after={start}") == ["0-00000002", "0-00000001", last]
    assert take(client, 2, **{"Last-Event-ID": "0-00000002"}) == ["0-00000001", last]


def test_silence_is_broken_by_a_heartbeat_and_a_client_that_went_is_let_go(
    service: Service, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "HEARTBEAT", 0.05)
    with client.stream("GET", "/v1/events", headers=STREAM) as answer:
        messages = blocks(answer)
        next(messages)
        assert [next(messages) for _ in range(2)] == [{"comment": "still here"}] * 2
        assert client.get("/v1/system").json()["streams"] == 1
    end = time.monotonic() + 10
    while service.feed.clients:
        assert time.monotonic() < end
        time.sleep(0.02)


def child(gallery: Path, port: int) -> subprocess.Popen[str]:
    """A service of its own that logs without end; it answers when this returns."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/serve_child.py"), str(gallery), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_killed_while_events_flow_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    chance = random.Random(7)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen: list[str] = []
    headers = {**STREAM, "Authorization": f"Bearer {TOKEN}"}
    for _ in range(ROUNDS):
        process = child(tmp_path / "g.gallery", port)
        timer = threading.Timer(chance.uniform(0.2, 0.8), process.kill)
        place = {"Last-Event-ID": seen[-1]} if seen else {}
        try:
            with httpx.stream(
                "GET", f"http://127.0.0.1:{port}/v1/events", headers=headers | place, timeout=30
            ) as answer:
                timer.start()
                for block in blocks(answer):
                    if "id" in block:
                        seen.append(block["id"])
        except httpx.TransportError:
            pass  # killed
        finally:
            process.kill()
            process.communicate()
            timer.join()
    with (
        Gallery.open(tmp_path / "g.gallery") as gallery,
        Sightings.open(gallery) as store,
    ):
        in_log = [e["id"] for e in store.events(None, 10**7)]
    assert len(seen) > 5 * ROUNDS
    begin = in_log.index(seen[0])
    assert seen == in_log[begin : begin + len(seen)]
    assert len({number.partition("-")[0] for number in seen}) > 1
