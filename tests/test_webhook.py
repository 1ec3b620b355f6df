"""Webhooks: every event at least once and in order, whatever the receiver does; cameras never
wait."""

# ruff: noqa: F811 - the fixtures of another file

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
from answering import Answering
from conftest import ROOT
from test_sightings import event, gallery, store, unit  # noqa: F401

from edgeface.errors import ArgumentError
from edgeface.sightings import Expiry, Sightings
from edgeface.types import timestamp
from edgeface.wires import Webhook, WebhookOptions, reader

BOUND = 20.0
AWAY = float(os.environ.get("EDGEFACE_RECEIVER_AWAY", "1"))  # seconds; 60: with the real pauses


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAUSE", 0.02)
    monkeypatch.setattr(reader, "PAUSE_MAX", 0.1)
    monkeypatch.setattr(reader, "LOOK", 0.05)


class Receiver:
    """A server that answers as it is told to: a status, or "hang"."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[SimpleNamespace] = []
        self.answers: Iterator[object] = iter(())
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = next(outer.answers, 204)
                if answer == "hang":
                    time.sleep(1.0)
                    return
                outer.requests.append(SimpleNamespace(
                    body=body, headers=dict(self.headers), answer=answer, at=time.time()
                ))  # fmt: skip
                self.send_response(int(str(answer)))
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._server = Answering(Handler, port)
        self.port, self.url = self._server.port, f"{self._server.address}/hook"

    def taken(self) -> list[str]:
        return [r.headers["X-Edgeface-Delivery"] for r in self.requests if r.answer == 204]

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def now() -> datetime:
    return datetime.now(UTC)


def sent(store: Sightings, count: int, first: int = 1, **fields) -> list[str]:
    ids = []
    for number in range(first, first + count):
        happened = event(number, number, at=now(), **fields)
        store.record(happened)
        ids.append(happened.id)
    return ids


@pytest.fixture
def hook(store: Sightings) -> Iterator[Callable[..., Webhook]]:
    made: list[Webhook] = []

    def make(url: str, place: Path | None = None, **options) -> Webhook:
        wire = Webhook(store, WebhookOptions(url, timeout=0.3, **options), place=place)
        wire.start()
        made.append(wire)
        return wire

    yield make
    for wire in made:
        assert wire.close(BOUND)


def test_events_are_posted_in_order_and_signed(store, receiver, hook) -> None:
    sent(store, 2)  # before it began: not its business
    hook(receiver.url, secret="Schlüssel")
    ids = sent(store, 5, first=3)
    until(lambda: receiver.taken() == ids)
    for request, told in zip(receiver.requests, store.events()[2:], strict=True):
        assert json.loads(request.body) == told
        mac = hmac.new("Schlüssel".encode(), request.body, hashlib.sha256).hexdigest()
        assert request.headers["X-Edgeface-Signature"] == f"sha256={mac}"
        assert request.headers["X-Edgeface-Event"] == "seen"
        assert request.headers["Content-Type"] == "application/json"


def test_a_receiver_that_fails_hangs_and_redirects_gets_every_event(
    store,
    receiver,
    hook,
) -> None:
    receiver.answers = iter([503, 204, "hang", 500, 302, 429, 404, 204])
    hook(receiver.url)
    ids = sent(store, 6)
    until(lambda: receiver.taken() == ids)
    tried = [r.headers["X-Edgeface-Delivery"] for r in receiver.requests]
    assert tried.count(ids[0]) == 2 and tried.count(ids[1]) == 5 and tried.count(ids[2]) == 1


def test_a_receiver_that_was_away_gets_what_it_missed(store, hook, caplog) -> None:
    first = Receiver()
    hook(first.url)
    ids = sent(store, 3)
    until(lambda: first.taken() == ids)
    first.close()
    begin = time.monotonic()
    missed = sent(store, 50, first=4)
    assert time.monotonic() - begin < 5  # writing did not wait for anybody
    time.sleep(0.2)
    second = Receiver(first.port)
    until(lambda: second.taken() == missed)
    second.close()
    assert "does not answer" in caplog.text


def test_it_goes_on_after_a_restart_where_it_was(
    store,
    receiver,
    tmp_path,
    hook,
) -> None:
    place = tmp_path / "hook.position"
    wire = hook(receiver.url, place)
    until(place.exists)
    assert wire.close(BOUND)
    ids = sent(store, 4)  # while it is down, and before it ever sent anything
    wire = hook(receiver.url, place)
    until(lambda: receiver.taken() == ids)
    receiver.answers = iter([503] * 10_000)
    ids += sent(store, 2, first=5)
    assert wire.close(BOUND)
    receiver.answers = iter(())
    ids += sent(store, 2, first=7)
    hook(receiver.url, place)
    until(lambda: receiver.taken() == ids)


def test_a_position_that_expired_begins_with_what_is_left(
    store,
    receiver,
    tmp_path,
    hook,
) -> None:
    place = tmp_path / "hook.position"
    place.write_text("0123-00000001")
    ids = sent(store, 3)
    hook(receiver.url, place)
    until(lambda: receiver.taken() == ids)
    place.write_bytes(b"\xff")
    hook(receiver.url, place)  # unreadable: from now on
    (last,) = sent(store, 1, first=9)
    until(lambda: receiver.taken() == [*ids, last, last])


def test_what_is_refused_or_too_old_holds_nothing_up(
    store,
    receiver,
    tmp_path,
    hook,
) -> None:
    place = tmp_path / "hook.position"
    place.write_text("")  # from the oldest on
    old = event(1, 1, at=now() - timedelta(hours=2))
    store.record(old)
    ids = sent(store, 3, first=2)
    receiver.answers = iter([422])
    wire = hook(receiver.url, place, max_age=3600.0)
    until(lambda: receiver.taken() == ids[1:])
    assert (wire.reader.expired, old.id in str(receiver.requests)) == (1, False)


def test_filters(store, receiver, hook, gallery) -> None:
    hook(receiver.url, events=("seen", "camera_lost"), cameras=("door",))
    told = {"version": 1, "id": "z-1", "event": "camera_lost", "camera": "door", "reason": None}
    (mine,) = sent(store, 1, camera="door")
    sent(store, 1, first=2, camera="garden")
    sent(store, 1, first=3, camera="door", kind="lost")
    store.log(told | {"ts": timestamp(now())})
    until(lambda: len(receiver.taken()) == 2)
    assert receiver.taken() == [mine, "z-1"]
    only = WebhookOptions("http://h", kinds=("known",))
    assert only.wants({"kind": "known"}) and not only.wants({"kind": None})
    assert not only.wants({"event": "camera_lost"})


def test_the_crop_comes_with_the_event(store, receiver, hook) -> None:
    hook(receiver.url, crop=True, secret="s")
    store.log(
        {"version": 1, "id": "a-1", "event": "camera_back", "camera": "door",
         "ts": timestamp(now()), "reason": None}
    )  # fmt: skip
    until(lambda: receiver.taken() == ["a-1"])
    assert receiver.requests[0].headers["Content-Type"] == "application/json"  # of no sighting
    row, _ = store.record(event(1, 7, row=unit(1), at=now() - timedelta(days=2)))
    store.keep_crop(row, b"\xff\xd8\r\n--jpeg", 0.5, now())
    sent(store, 1, first=2)
    store.record(event(3, 7, kind="lost", row=unit(1), at=now()))
    until(lambda: len(receiver.taken()) == 3)
    request = receiver.requests[-1]
    mail = message_from_bytes(
        b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n" + request.body,
        policy=HTTP,
    )
    data, crop = mail.iter_parts()
    assert json.loads(data.get_content())["event"] == "lost"
    assert crop.get_payload(decode=True) == b"\xff\xd8\r\n--jpeg"
    assert request.headers["X-Edgeface-Signature"].startswith("sha256=")


def test_closing_does_not_wait_for_a_receiver(store, receiver, hook) -> None:
    receiver.answers = iter(["hang"] * 100)
    wire = hook(receiver.url)
    sent(store, 2)
    time.sleep(0.2)
    begin = time.monotonic()
    assert wire.close(BOUND)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "ftp://h"}, "http"),
        ({"url": "http://"}, "http"),
        ({"url": "http://[::1/x"}, "http"),
        ({"url": "http://bob:topsecret@h/"}, "use the secret"),
        ({"timeout": 0.0}, "above 0"),
        ({"max_age": float("inf")}, "finite"),
    ],
)
def test_what_no_webhook_is_made_of(fields, says: str) -> None:
    with pytest.raises(ArgumentError, match=says) as caught:
        WebhookOptions(**{"url": "http://h/x"} | fields)
    assert "topsecret" not in str(caught.value)


def test_erased_events_are_not_sent(store, receiver, tmp_path, hook) -> None:
    place = tmp_path / "hook.position"
    place.write_text("")
    store.record(event(1, 1, at=now() - timedelta(days=90)))
    store.expire(time.time(), Expiry())
    ids = sent(store, 1, first=2)
    hook(receiver.url, place)
    until(lambda: receiver.taken() == ids)


def test_the_receiver_of_the_document_checks_signatures(store, hook) -> None:
    text = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "do_POST" in c]
    assert len(code.strip().splitlines()) <= 24
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    receiver = subprocess.Popen(
        [sys.executable, "-u", "-c", code.replace("8899", str(port))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        hook(f"http://127.0.0.1:{port}/faces", secret="wrong", max_age=2.0)
        hook(f"http://127.0.0.1:{port}/faces", secret="swordfish")
        sent(store, 2)
        assert receiver.stdout is not None
        lines = [receiver.stdout.readline().strip() for _ in range(2)]
        assert lines == ["door seen None"] * 2
    finally:
        receiver.kill()
        rest, _ = receiver.communicate()
    assert rest == ""


def test_a_receiver_that_fails_hangs_and_is_away(store, hook, monkeypatch) -> None:
    """Four cameras go on meanwhile. One wire keeps every event, another only what is fresh."""
    if AWAY >= 30:  # the pauses of users, not those of this file
        for name, value in {"PAUSE": 1.0, "PAUSE_MAX": 60.0, "LOOK": 1.0}.items():
            monkeypatch.setattr(reader, name, value)
    bound, fresh = 4 * AWAY + 60, AWAY / 2
    receivers = [Receiver(), Receiver()]
    ports = [one.port for one in receivers]
    wires = [hook(receivers[0].url), hook(receivers[1].url, max_age=fresh)]
    chance = random.Random(5)
    moods: list[object] = [204] * 12 + [503, 500, 429, 302, 404, "hang"]
    for one in receivers:
        one.answers = iter([chance.choice(moods) for _ in range(100_000)])
    ended, written = threading.Event(), dict[str, list[str]]()

    def watch(camera: str) -> None:
        ids = written.setdefault(camera, [])
        while not ended.is_set():
            made = event(len(ids), len(ids), at=now(), camera=camera, run=camera)
            store.record(made)
            ids.append(made.id)
            ended.wait(max(0.1, AWAY / 40))

    def count() -> int:
        return sum(map(len, written.values()))

    def until_taken() -> None:
        end = time.monotonic() + bound
        while (
            wires[0].reader.delivered < count()
            or sum((wires[1].reader.delivered, wires[1].reader.expired)) < count()
        ):
            assert time.monotonic() < end
            time.sleep(0.05)

    cameras = [threading.Thread(target=watch, args=(name,)) for name in ("a", "b", "c", "d")]
    for camera in cameras:
        camera.start()
    time.sleep(AWAY / 2)  # it fails and hangs
    for one in receivers:
        one.close()
    before = count()
    time.sleep(AWAY)  # it is away
    assert count() - before >= 16, "cameras waited"
    back = [Receiver(port) for port in ports]
    for one in back:
        one.answers = iter([chance.choice(moods) for _ in range(20)])
    time.sleep(AWAY / 4)
    ended.set()
    for camera in cameras:
        camera.join()
    until_taken()
    taken = [
        [*first.taken(), *second.taken()] for first, second in zip(receivers, back, strict=True)
    ]
    for one in back:
        one.close()
    for camera, ids in written.items():
        mine = [i for i in taken[0] if i.startswith(f"{camera}-")]
        assert list(dict.fromkeys(mine)) == ids, "lost, or out of order"
        some = list(dict.fromkeys(i for i in taken[1] if i.startswith(f"{camera}-")))
        assert some == [i for i in ids if i in set(some)]
    assert wires[1].reader.expired > 0 and wires[0].reader.expired == 0
    missing = count() - len(set(taken[1]))  # one whose answer was lost may have expired after it
    assert wires[1].reader.delivered + wires[1].reader.expired == count()
    assert 0 < missing <= wires[1].reader.expired
    late = [
        r.at - datetime.fromisoformat(json.loads(r.body)["ts"]).timestamp()
        for r in (*receivers[1].requests, *back[1].requests)
    ]
    assert max(late) < fresh + 1.0  # one second for the way
    print(f"\n{count()} events, {wires[1].reader.expired} expired, oldest taken {max(late):.1f} s")
