"""Frigate: streams by name, and the right label on the right event, against a stand-in that checks
what Frigate's own request models check."""

# ruff: noqa: F811 - the fixtures of another file

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from answering import Answering
from hypothesis import given
from hypothesis import strategies as st
from test_mqtt import broker, listener  # noqa: F401
from test_sightings import event, gallery, store, unit  # noqa: F401
from test_webhook import BOUND, quick, until  # noqa: F401

from edgeface.errors import ArgumentError
from edgeface.gallery import Gallery
from edgeface.sightings import Sightings
from edgeface.types import Event
from edgeface.wires import Frigate, FrigateOptions, Mqtt, MqttOptions, frigate
from edgeface.wires.confidence import AT_THRESHOLD, GAP, confidence
from edgeface.wires.fitting import Body, Sight, fits
from edgeface.wires.frigate import address
from edgeface.wires.reader import Undelivered

WIDTH, HEIGHT = 640, 360

# frigate/api/defs/query/events_query_parameters.py, class EventsQueryParams, of Frigate 0.17: the
# parameters used here, with their types. FastAPI passes over others; here they are a fault.
EVENTS_QUERY: dict[str, Callable[[str], object]] = {
    "cameras": str, "labels": str, "limit": int, "after": float, "before": float,
    "include_thumbnails": int,
}  # fmt: skip


def checked(body: object) -> bool:
    """Whether a body is an EventsSubLabelBody (frigate/api/defs/request/events_body.py): `subLabel`
    str of at most 100 characters, `subLabelScore` float above 0 and at most 1 or null, `camera` str
    or null."""
    if not isinstance(body, dict) or not isinstance(body.get("subLabel"), str):
        return False
    score = body.get("subLabelScore")
    good = score is None or (type(score) in (int, float) and 0.0 < score <= 1.0)
    return good and len(body["subLabel"]) <= 100 and set(body) <= {"subLabel", "subLabelScore"}


class StandIn:
    """Frigate's events over HTTP. `rows` are its events, in the form of EventResponse."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.posts: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.asked = 0
        self.answers: Iterator[int] = iter(())
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self, status: int, body: object) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                outer.asked += 1
                assert parts.path == "/api/events"
                if (status := next(outer.answers, 200)) != 200:
                    self.answer(status, {"success": False})
                else:
                    self.answer(*outer.found(parse_qs(parts.query, keep_blank_values=True)))

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                path = re.fullmatch(r"/api/events/([^/]+)/sub_label", urlsplit(self.path).path)
                assert path is not None
                assert self.headers["Content-Type"] == "application/json"
                self.answer(*outer.label(unquote(path[1]), json.loads(raw)))

        self._server = Answering(Handler)
        self.url = self._server.address

    def found(self, query: dict[str, list[str]]) -> tuple[int, object]:
        given: dict[str, Any] = {}
        for key, values in query.items():
            try:
                given[key] = EVENTS_QUERY[key](values[0])
            except (KeyError, ValueError):
                self.faults.append(f"query {key}={values}")
                return 422, {"detail": key}
        rows = [
            row for row in self.rows.values()
            if row["camera"] in given["cameras"].split(",")
            and row["label"] in given["labels"].split(",")
            and given["after"] < row["start_time"] < given["before"]
        ]  # fmt: skip
        return 200, sorted(rows, key=lambda r: -r["start_time"])[: given["limit"]]

    def label(self, name: str, body: dict[str, Any]) -> tuple[int, object]:
        if not checked(body):
            self.faults.append(f"body {body}")
            return 422, {"detail": "body"}
        if name not in self.rows:
            return 404, {"success": False, "message": f"Event {name} not found"}
        self.posts.append((name, body["subLabel"]))
        self.rows[name]["sub_label"] = body["subLabel"] or None
        return 200, {"success": True}

    def follow(self, camera: str, box: tuple[float, ...], at: datetime, **fields: Any) -> str:
        """Frigate follows somebody: `box` x, y, width, height as shares; returns the id."""
        name = f"{at.timestamp():.6f}-{len(self.rows):06x}"
        data = {"box": list(box), "type": "object", "score": 0.8, **fields.pop("data", {})}
        self.rows[name] = {
            "id": name, "camera": camera, "label": "person", "sub_label": None, "zones": [],
            "start_time": at.timestamp(), "end_time": None, "false_positive": None,
            "has_clip": True, "has_snapshot": True, "data": data, **fields,
        }  # fmt: skip
        return name

    def labels(self) -> dict[str, str | None]:
        return {name: row["sub_label"] for name, row in self.rows.items()}

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def nvr() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.close()
    assert not made.faults


Wire = Callable[..., Frigate]


@pytest.fixture
def wire(store: Sightings, nvr: StandIn) -> Iterator[Wire]:
    made: list[Frigate] = []

    def make(place: Path | None = None, tell=None, **options: Any) -> Frigate:
        wired = Frigate(store, FrigateOptions(nvr.url, **options), camera=lambda name: name,
                        tell=tell, place=place)  # fmt: skip
        wired.start()
        made.append(wired)
        return wired

    yield make
    for wired in made:
        assert wired.close(BOUND)


@pytest.fixture
def people(gallery: Gallery) -> SimpleNamespace:
    ann, ben = gallery.enroll("Ann", [unit(1)]), gallery.enroll("Ben", [unit(2)])
    return SimpleNamespace(ann=ann, ben=ben, unknown=None)


class Faces:
    """Events of faces; a face is at the top of a body's box."""

    def __init__(self, store: Sightings) -> None:
        self._store, self._number = store, 0

    def __call__(self, what: str, track: int, box, who=None, at=None, camera="door") -> Event:
        self._number += 1
        happened = event(
            self._number, track, what, who, at=at or now(), camera=camera, run=f"r-{camera}"
        )
        x, y, width, _ = box
        size = 0.3 * width * WIDTH
        middle, top = (x + width / 2) * WIDTH, y * HEIGHT + 4
        happened.box[:] = [middle - size / 2, top, middle + size / 2, top + 1.2 * size]
        object.__setattr__(happened, "size", (WIDTH, HEIGHT))
        self._store.record(happened)
        return happened


@pytest.fixture
def faces(store: Sightings) -> Faces:
    return Faces(store)


def now() -> datetime:
    return datetime.now(UTC)


LEFT, RIGHT = (0.1, 0.2, 0.2, 0.7), (0.55, 0.25, 0.2, 0.7)


def test_three_cameras_with_two_people_each_get_the_right_labels(
    store, nvr, wire, people, faces
) -> None:
    expected: dict[str, str | None] = {}
    for index, camera in enumerate(("door", "yard", "hall")):
        boxes = (LEFT, RIGHT) if index % 2 else (RIGHT, LEFT)
        for who, box in zip((people.ann, people.ben), boxes, strict=True):
            expected[nvr.follow(camera, box, now())] = who.name
        # Somebody who had been there before, and somebody on another camera at the same place.
        gone = nvr.follow(camera, LEFT, now() - timedelta(minutes=5))
        nvr.rows[gone]["end_time"] = nvr.rows[gone]["start_time"] + 20
        expected |= {gone: None, nvr.follow("garage", boxes[0], now()): None}
    told: list[dict[str, Any]] = []
    wire(tell=told.append)
    for camera in ("door", "yard", "hall"):
        boxes = (LEFT, RIGHT) if camera == "yard" else (RIGHT, LEFT)
        for track, box in enumerate(boxes):
            faces("seen", track, box, camera=camera)
    for camera in ("hall", "door", "yard"):
        boxes = (LEFT, RIGHT) if camera == "yard" else (RIGHT, LEFT)
        for track, who in enumerate((people.ann, people.ben)):
            faces("identified", track, boxes[track], who, camera=camera)
            faces("lost", track, boxes[track], who, camera=camera)
    until(lambda: len(told) == 6)
    assert nvr.labels() == expected and len(nvr.posts) == 6  # each once
    assert {(t["camera"], t["name"]) for t in told} == {
        (c, n) for c in ("door", "yard", "hall") for n in ("Ann", "Ben")
    }
    for update in told:
        assert set(update) == {"type", "id", "name", "score", "camera", "timestamp"}
        assert update["type"] == "face" and nvr.rows[update["id"]]["sub_label"] == update["name"]
        assert AT_THRESHOLD <= update["score"] <= 1 and abs(update["timestamp"] - time.time()) < 60


def test_overlapping_bodies_are_told_apart_by_the_other_face(nvr, wire, people, faces) -> None:
    front, back = (0.30, 0.25, 0.30, 0.7), (0.42, 0.22, 0.30, 0.7)
    ids = [nvr.follow("door", box, now()) for box in (front, back)]
    wire()
    faces("seen", 1, front)
    faces("seen", 2, back)
    faces("identified", 2, back, people.ben)
    faces("identified", 1, front, people.ann)
    until(lambda: nvr.labels() == {ids[0]: "Ann", ids[1]: "Ben"})


def test_a_body_is_followed_along_its_path(nvr, wire, people, faces) -> None:
    """Two who change places: the box that Frigate keeps is of one moment only."""
    start = now() - timedelta(seconds=10)
    at = [start.timestamp() + s for s in (0, 10)]

    def path(first: float, last: float) -> dict[str, Any]:
        return {"path_data": [[[first, 0.9], at[0]], [[last, 0.9], at[1]]]}

    one = nvr.follow("door", LEFT, start, data=path(0.2, 0.65))
    two = nvr.follow("door", (*RIGHT[:1], 0.2, 0.2, 0.7), start, data=path(0.65, 0.2))
    wire()
    faces("identified", 1, RIGHT, people.ann)  # who began at the left
    faces("identified", 2, LEFT, people.ben)
    until(lambda: nvr.labels() == {one: "Ann", two: "Ben"})


def test_where_two_fit_equally_well_nothing_is_written(
    nvr, wire, people, faces, monkeypatch
) -> None:
    monkeypatch.setattr(frigate, "PATIENCE", 0.3)
    for _ in range(2):
        nvr.follow("door", LEFT, now())
    wire()
    faces("identified", 1, LEFT, people.ann)
    other = nvr.follow("door", RIGHT, now())
    faces("identified", 2, RIGHT, people.ben)
    until(lambda: nvr.labels()[other] == "Ben")
    asked = nvr.asked
    time.sleep(0.6)
    assert set(nvr.labels().values()) == {None, "Ben"} and nvr.asked - asked < 20


def test_a_body_that_frigate_writes_down_later_is_waited_for(nvr, wire, people, faces) -> None:
    wire()
    faces("identified", 1, LEFT, people.ann)
    faces("identified", 2, RIGHT, people.ben, camera="yard")
    there = nvr.follow("yard", RIGHT, now())
    until(lambda: nvr.labels() == {there: "Ben"})  # others do not wait meanwhile
    late = nvr.follow("door", LEFT, now())
    until(lambda: nvr.labels() == {there: "Ben", late: "Ann"})
    faces("lost", 1, LEFT, people.ann)
    faces("lost", 2, RIGHT, people.ben, camera="yard")
    time.sleep(0.2)
    assert len(nvr.posts) == 2


def test_a_name_that_was_wrong_is_taken_back(nvr, wire, people, faces) -> None:
    one = nvr.follow("door", LEFT, now())
    wire()
    faces("identified", 1, LEFT, people.ann)
    until(lambda: nvr.labels() == {one: "Ann"})
    faces("changed", 1, LEFT, people.ben)
    until(lambda: nvr.labels() == {one: "Ben"})
    faces("changed", 1, LEFT, None)
    until(lambda: nvr.labels() == {one: None})
    faces("lost", 1, LEFT, None)
    assert nvr.posts == [(one, "Ann"), (one, "Ben"), (one, "")]


def test_the_last_sight_puts_a_label_right(nvr, wire, people, faces) -> None:
    """Frigate has only one body at first, of somebody else who is in the same place."""
    first = nvr.follow("door", LEFT, now())
    wire()
    faces("identified", 1, LEFT, people.ann)
    until(lambda: nvr.labels() == {first: "Ann"})
    nvr.rows[first]["data"]["box"] = list(RIGHT)
    second = nvr.follow("door", LEFT, now())
    faces("lost", 1, LEFT, people.ann)
    until(lambda: nvr.labels() == {first: None, second: "Ann"})
    assert nvr.posts == [(first, "Ann"), (first, ""), (second, "Ann")]


def test_who_lost_the_name_before_frigate_knew_gets_none(nvr, wire, people, faces) -> None:
    wire()
    faces("identified", 1, LEFT, people.ann)
    until(lambda: nvr.asked)
    faces("changed", 1, LEFT, None)
    faces("lost", 1, LEFT, None)
    nvr.follow("door", LEFT, now())
    other = nvr.follow("yard", LEFT, now())
    faces("identified", 5, LEFT, people.ben, camera="yard")
    until(lambda: nvr.labels()[other] == "Ben")
    time.sleep(0.2)
    assert set(nvr.labels().values()) == {None, "Ben"}


def test_strangers_get_no_label_unless_asked_for(nvr, wire, people, faces, gallery) -> None:
    stranger = gallery.add_stranger(unit(9))
    one = nvr.follow("door", LEFT, now())
    wire()
    faces("identified", 1, LEFT, stranger)
    faces("seen", 2, RIGHT)
    time.sleep(0.2)
    assert nvr.posts == [] and nvr.asked == 0
    wire(kinds=("known", "stranger"))
    faces("changed", 1, LEFT, stranger)
    until(lambda: nvr.labels() == {one: stranger.name})


def test_long_names_are_cut_and_odd_ones_kept(nvr, wire, faces, gallery) -> None:
    odd = 'Zoë/"+#' + "👩" * 150
    who = gallery.enroll(odd[:150], [unit(4)])
    one = nvr.follow("door", LEFT, now())
    wire()
    faces("identified", 1, LEFT, who)
    until(lambda: nvr.labels() == {one: odd[:100]})
    faces("lost", 1, LEFT, who)
    time.sleep(0.1)
    assert len(nvr.posts) == 1


def test_frigate_that_fails_and_was_away_gets_every_name(
    nvr, wire, people, faces, tmp_path, store
) -> None:
    place = tmp_path / "frigate.place"
    nvr.answers = iter([500, 502, 200, 404, 401])
    began = now()
    one = nvr.follow("door", LEFT, began)
    first = wire(place=place)
    faces("identified", 1, LEFT, people.ann)
    until(lambda: nvr.labels() == {one: "Ann"})
    faces("lost", 1, LEFT, people.ann)
    assert first.close(BOUND)
    two = nvr.follow("door", RIGHT, now() - timedelta(minutes=20))
    nvr.rows[two]["end_time"] = time.time() - 19 * 60
    at = now() - timedelta(minutes=19, seconds=30)
    faces("identified", 7, RIGHT, people.ben, at)  # before it is back
    faces("lost", 7, RIGHT, people.ben, at)
    wire(place=place)
    until(lambda: nvr.labels()[two] == "Ben")


def test_a_listener_that_is_away_is_told_later(nvr, wire, people, faces) -> None:
    told: list[str] = []
    away = iter([True] * 3)

    def tell(update: dict[str, Any]) -> None:
        if next(away, False):
            raise Undelivered("the broker is away")
        told.append(update["name"])

    nvr.follow("door", LEFT, now())
    wire(tell=tell)
    faces("identified", 1, LEFT, people.ann)
    until(lambda: told == ["Ann"])


def test_labels_are_published_below_our_own_prefix(
    nvr, wire, people, faces, store, broker, listener
) -> None:
    pytest.importorskip("paho.mqtt.client")
    wired = Mqtt(store, MqttOptions(broker.url, prefix="faces/up"))
    with pytest.raises(Undelivered):
        wired.update({})
    wired.start()
    body = nvr.follow("door", LEFT, now())
    wire(tell=wired.update)
    faces("identified", 1, LEFT, people.ann)
    topic = "faces/up/tracked_object_update"
    until(lambda: listener.last(topic))
    assert json.loads(listener.last(topic))["id"] == body
    assert wired.close(BOUND)


def test_an_event_that_frigate_erased_holds_nothing_up(nvr, wire, people, faces) -> None:
    nvr.follow("door", LEFT, now())
    gone = next(iter(nvr.rows))
    nvr.label = lambda name, body: (404, {}) if name == gone else StandIn.label(nvr, name, body)
    wire()
    faces("identified", 1, LEFT, people.ann)
    other = nvr.follow("door", RIGHT, now())
    faces("identified", 2, RIGHT, people.ben)
    until(lambda: nvr.labels() == {gone: None, other: "Ben"})


def test_rows_of_other_programs_are_passed_over(nvr, wire, people, faces) -> None:
    for data in (None, {}, {"box": None}, {"box": [1, 2]}, {"box": [0, 0, "x", 1]}):
        name = nvr.follow("door", LEFT, now())
        nvr.rows[name]["data"] = data
    one = nvr.follow("door", LEFT, now())
    wire()
    faces("identified", 1, LEFT, people.ann)
    until(lambda: nvr.labels()[one] == "Ann")


# Fitting and confidence


@given(st.permutations(range(4)), st.integers(0, 5))
def test_the_pairing_does_not_depend_on_the_order(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [(0.05 + 0.24 * i, float(rng.uniform(0.1, 0.3))) for i in range(4)]
    bodies = [Body(str(i), 0.0, None, (x, y, x + 0.2, 0.95)) for i, (x, y) in enumerate(boxes)]
    sights = [[Sight(5.0, (x + 0.06, y + 0.02, x + 0.14, y + 0.12))] for x, y in boxes]
    assert fits([sights[i] for i in order], bodies) == list(order)
    assert fits([], bodies) == [] and fits(sights, []) == [None] * 4


def walked(rng: np.random.Generator, size: float, horizon: float) -> tuple[Body, list[Sight]]:
    """Somebody who walks across the picture, what Frigate writes down of it (a path point per 5 %
    of the diagonal, the box of one moment), and two sights of the face, on another clock."""
    begin = rng.uniform(0, 2)
    end = begin + rng.uniform(3, 6)
    (x0, x1), (y0, y1) = rng.uniform(0.1, 0.9, 2), rng.uniform(0.55, 1.1, 2)
    size *= rng.uniform(0.9, 1.1)

    def box(moment: float) -> np.ndarray:
        share = (moment - begin) / (end - begin)
        x, bottom = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
        height = size * (bottom - horizon)
        half = 0.12 * height
        return np.array([x - half, bottom - height, x + half, min(bottom, 1.0)])

    def noisy(moment: float) -> np.ndarray:
        found = box(moment)
        return found + rng.normal(0, 0.02 * (found[3] - found[1]), 4)

    path: list[tuple[float, float, float]] = []
    for moment in np.arange(begin, end, 0.2):
        a, _, b, bottom = noisy(moment)
        point = (float(moment), float(a + b) / 2, float(bottom))
        if len(path) < 2 or np.hypot(*np.subtract(path[-1][1:], point[1:])) >= 0.057:
            path.append(point)
    a, b, c, d = map(float, noisy(rng.uniform(begin, end)))
    sights, late = [], rng.normal(0, 0.2)
    for moment in np.sort(rng.uniform(begin + 0.5, end, 2)):
        left, top, right, _ = box(moment)
        width, height = (right - left) * 0.25, (right - left) * 0.58
        x = (left + right) / 2 + rng.normal(0, 0.1) * (right - left)
        sights.append(
            Sight(moment + late, (x - width / 2, top + 0.01, x + width / 2, top + height))
        )
    return Body("", begin, None, (a, b, c, d), tuple(path)), sights


def test_people_who_cross_get_their_own_labels() -> None:
    rng, counts = np.random.default_rng(3), {"right": 0, "none": 0, "wrong": 0}
    for _ in range(150):
        size, horizon = rng.uniform(0.5, 1.0), rng.uniform(-0.1, 0.3)
        two = [walked(rng, size, horizon) for _ in range(2)]
        found = fits([sights for _, sights in two], [body for body, _ in two])
        for own, index in enumerate(found):
            counts["none" if index is None else "right" if index == own else "wrong"] += 1
    assert counts["right"] >= 0.93 * 300 and counts["wrong"] <= 0.01 * 300, counts


def test_two_who_could_as_well_be_swapped_are_nobody() -> None:
    bodies = [Body(n, 0.0, 10.0, (0.4, 0.2, 0.6, 0.9)) for n in "ab"]
    sights = [[Sight(5.0, (0.45, 0.22, 0.52, 0.3))], [Sight(5.0, (0.47, 0.22, 0.54, 0.3))]]
    assert fits(sights, bodies) == [None, None]
    late = [[Sight(50.0, sights[0][0].box)]]
    assert fits(late, bodies) == [None]


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.05, 0.95))
def test_confidence_grows_with_similarity(a: float, b: float, threshold: float) -> None:
    low, high = sorted((a, b))
    assert 0 < confidence(low, threshold) <= confidence(high, threshold) <= 1
    assert confidence(threshold, threshold) == AT_THRESHOLD
    assert confidence(low, threshold, "uncertain") < AT_THRESHOLD - GAP
    if low < threshold:
        assert confidence(low, threshold) < AT_THRESHOLD - GAP
    assert confidence(low, threshold, "match") >= AT_THRESHOLD


# Settings and streams


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({}, "front door", "rtsp://frigate:8554/front%20door"),
        ({"rtsp": "rtsp://10.0.0.2:9554/"}, "a/b", "rtsp://10.0.0.2:9554/a%2Fb"),
        ({"rtsp": "rtsp://me@h", "password": "p@ss/"}, "x", "rtsp://me:p%40ss%2F@h/x"),
        ({"rtsp": "rtsps://m%40e:pw@h:1/live"}, "x", "rtsps://m%40e:pw@h:1/live/x"),
        ({"url": "https://[::1]:8971/frigate"}, "x", "rtsp://[::1]:8554/x"),
    ],
)
def test_streams_by_name(options: dict[str, str], name: str, expected: str) -> None:
    made = FrigateOptions(**{"url": "http://frigate:5000"} | options)
    assert address(made, f"frigate://{name}") == expected
    assert address(None, "rtsp://h/1") == "rtsp://h/1" and address(made, "0") == "0"
    assert "p@ss" not in repr(made)
    with pytest.raises(ArgumentError, match=r"url under \[frigate\]"):
        address(None, "frigate://x")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "rtsp://h"}, "give http"),
        ({"url": "http://"}, "give http"),
        ({"url": "http://[::1/x"}, "give http"),
        ({"url": "http://a:topsecret@h"}, "holds a password"),
        ({"rtsp": "http://h"}, "give rtsp"),
        ({"timeout": 0}, "above 0"),
    ],
)
def test_what_no_frigate_is(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says) as caught:
        FrigateOptions(**{"url": "http://h:5000"} | fields)
    assert "topsecret" not in str(caught.value)
