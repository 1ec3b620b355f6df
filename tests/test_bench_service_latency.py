"""The bench of the way from a frame to a client, on events with known times."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bench.service_kill9 import compared
from bench.service_latency import Listener, delays
from edgeface.types import timestamp


def told(event: str, taken: float) -> dict[str, object]:
    return {"event": event, "ts": timestamp(datetime.fromtimestamp(taken, UTC))}


def test_what_is_told_late_by_design_or_before_the_beginning_does_not_count() -> None:
    arrived = [
        (told("seen", 99.0), 99.5),  # while the cameras come
        (told("identified", 101.25), 101.5),
        (told("changed", 102.0), 103.0),
        (told("lost", 100.0), 104.0),
        (told("camera_back", 100.0), 100.0),
    ]
    assert delays(arrived, since=100.0) == pytest.approx([250.0, 1000.0])


class _Stream(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'retry: 1\n\nid: a\ndata: {"event": "seen", "ts": "x"}\n\n: here\n\n')

    def log_message(self, *about: object) -> None:
        pass


def test_a_listener_keeps_each_event_with_its_time() -> None:
    with HTTPServer(("127.0.0.1", 0), _Stream) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        listener = Listener("127.0.0.1", server.server_port)
        listener.reading.join(10.0)
        thread.join()
    ((event, now),) = listener.arrived
    assert event["event"] == "seen" and now > 1e9


@pytest.mark.parametrize(
    ("seen", "lost", "missed", "doubled"),
    [("bcd", 0, 0, 0), ("bd", 0, 1, 0), ("bccd", 0, 0, 1), ("bcxd", 1, 0, 0), ("", 0, 0, 0)],
)
def test_what_a_client_saw_is_held_against_the_log(
    seen: str, lost: int, missed: int, doubled: int
) -> None:
    found = compared(list(seen), list("abcde"))
    said = [found[f"kill9.{key}"] for key in ("lost", "missed", "doubled")]
    assert said == [lost, missed, doubled] and found["kill9.seen"] == len(seen)
