"""The service over HTTP, with the shipped models: every route answers what openapi.json says."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path

import cv2
import httpx
import jsonschema
import numpy as np
import pytest
from serving import filed, serving
from test_sightings import event

from edgeface.describe import Describer
from edgeface.errors import GalleryError
from edgeface.gallery import Kind
from edgeface.serve.app import OPENAPI, ROUTES
from edgeface.serve.service import WAITING, Service
from edgeface.types import timestamp

DOCUMENT = json.loads(OPENAPI.read_text(encoding="utf-8"))
BOUND = 20.0


@pytest.fixture
def service(tmp_path: Path, describer: Describer) -> Iterator[Service]:
    with filed(tmp_path, describer) as made:
        yield made


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with serving(service) as it:
        yield it


@pytest.fixture
def eileen(sample: Path) -> bytes:
    return (sample / "eileen.jpg").read_bytes()


def enrol(client: httpx.Client, name: str, *pictures: bytes) -> httpx.Response:
    files = [("picture", ("x.jpg", data)) for data in pictures]
    return client.post("/v1/people", data={"name": name}, files=files)


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, which is in the envelope."""
    body = answer.json()
    assert set(body) == {"error", "request_id"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, body["error"]["code"]


def seen(service: Service, number: int, who=None, row=None, track: int | None = None) -> int:
    """An appearance in the log; its id."""
    told = event(number, track or number, "seen", who, row, at=datetime.now(UTC))
    return service.store.record(told)[0]


def row_of(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(128).astype(np.float32)
    return row / np.linalg.norm(row)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_routes_and_document_agree() -> None:
    routes = {(method.lower(), path) for method, path, _, _ in ROUTES}
    routes.add(("get", "/v1/openapi.json"))
    told = {(m, path) for path, methods in DOCUMENT["paths"].items() for m in methods}
    assert routes == told
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(DOCUMENT)))
    assert names | {"Event"} == set(DOCUMENT["components"]["schemas"])


def check(answer: httpx.Response, method: str, path: str) -> dict:
    """Hold an answer against the document; its content."""
    told = DOCUMENT["paths"][path][method]["responses"]
    assert str(answer.status_code) in told, answer.text
    if answer.status_code == 204:
        return {}
    (kind, *others) = told[str(answer.status_code)]["content"]
    assert answer.headers["content-type"].partition(";")[0] in (kind, *others)
    if kind != "application/json":
        return {}
    content = told[str(answer.status_code)]["content"][kind]["schema"]
    schema = {**content, "components": DOCUMENT["components"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(answer.json())
    assert [f"{list(e.path)}: {e.message[:300]}" for e in errors] == [], path
    return answer.json()


def test_every_route_answers_as_the_document_says(  # noqa: PLR0915 - each once
    service: Service, client: httpx.Client, eileen: bytes, tmp_path: Path
) -> None:
    asked = set()

    def ask(method: str, path: str, at: dict | None = None, **options) -> dict:
        filled = path.format(**(at or {}))
        asked.add((method, path))
        return check(client.request(method, filled, **options), method, path)

    picture = {"picture": ("a.jpg", eileen)}
    ask("get", "/v1/health")
    ask("get", "/v1/openapi.json")
    ask("get", "/v1/system")
    person = ask("post", "/v1/people", data={"name": "Eileen", "group": "crew"}, files=picture)
    number = person["person"]["id"]
    assert person["person"]["group"] == "crew" and person["person"]["samples"] == 1
    me = {"at": {"id": number}}
    (sample_row,) = ask("get", "/v1/people/{id}/samples", **me)["samples"]
    where = {"at": {"id": number, "sample": sample_row["id"]}}
    ask("get", "/v1/people/{id}/samples/{sample}/image", **where)
    (face,) = ask("post", "/v1/identify", files=picture)["faces"]
    assert (face["name"], face["nearest"][0]["person_id"]) == ("Eileen", number)
    assert len(ask("post", "/v1/detect", files=picture)["faces"]) == 1
    both = {"a": ("a.jpg", eileen), "b": ("b.jpg", eileen)}
    assert ask("post", "/v1/verify", files=both)["same"] is True
    ask("post", "/v1/calibration", json={"fpir": 0.05})
    assert ask("get", "/v1/calibration")["calibration"]["fpir"] == 0.05

    stranger = service.gallery.add_stranger(row_of(1))
    other = service.gallery.add_stranger(row_of(2))
    first = seen(service, 1, stranger, row_of(1))
    second = seen(service, 2, stranger, near128(row_of(1), 5, 0.8))
    third = seen(service, 3, None, row_of(3))
    seen(service, 4, service.gallery.person("Eileen"), row_of(4))
    service.store.keep_crop(first, b"\xff\xd8jpeg", 0.9, datetime.now(UTC))
    page = ask("get", "/v1/events", params={"limit": 2})
    assert len(page["events"]) == 2
    assert ask("get", "/v1/events", params={"after": page["after"]})["events"]
    rows = ask("get", "/v1/sightings", params={"kind": "stranger", "limit": 1})
    assert rows["cursor"] and rows["sightings"][0]["name"] == stranger.name
    assert ask("get", "/v1/visits")["visits"][0]["cameras"] == ["door"]
    ask("get", "/v1/sightings/{id}", at={"id": first})
    ask("get", "/v1/sightings/{id}/image", at={"id": first})
    assert ask("post", "/v1/sightings/search", files=picture)["sightings"] == []
    listed = ask("get", "/v1/people", params={"kind": "stranger"})["people"]
    assert [(p["id"], p["visits"]["count"]) for p in listed] == [(stranger.id, 2), (other.id, 0)]
    assert listed[0]["visits"]["images"] == [first]
    ask("get", "/v1/people/{id}", at={"id": stranger.id})
    ask("post", "/v1/people/name", json={"name": "Cleo", "sightings": [third]})
    whose = {"at": {"id": stranger.id}}
    ask("post", "/v1/people/{id}/split", json={"sightings": [second]}, **whose)
    named = ask("patch", "/v1/people/{id}", json={"name": "Ben", "was": stranger.name}, **whose)
    assert named["person"]["kind"] == "known" and named["changes"][0]["action"] == "name"
    ask("post", "/v1/people/{id}/not-this", json={"sightings": [first]}, **whose)
    ask("post", "/v1/people/merge", json={"into": stranger.id, "others": [other.id]})
    changes = ask("get", "/v1/history")["changes"]
    assert changes[0]["action"] == "merge"
    ask("post", "/v1/history/{id}/undo", at={"id": changes[0]["id"]})
    assert {p.id for p in service.gallery.people()} >= {stranger.id, other.id}
    ask("delete", "/v1/people/{id}", at={"id": other.id})

    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(eileen)
    ask("post", "/v1/cameras", json={"name": "door 1", "source": str(tmp_path)})
    door = {"at": {"name": "door%201"}}
    until(lambda: service.cameras["door 1"].snapshot() is not None)
    ask("get", "/v1/cameras")
    ask("get", "/v1/cameras/{name}", **door)
    ask("get", "/v1/cameras/{name}/state", **door)
    ask("get", "/v1/cameras/{name}/snapshot.jpg", **door)
    ask("get", "/v1/cameras/{name}/preview.mjpeg", **door)  # ends with the folder
    ask("patch", "/v1/cameras/{name}", json={"every": 2}, **door)
    assert "Eileen" not in client.get("/metrics").text
    ask("get", "/metrics")
    ask("delete", "/v1/cameras/{name}", **door)
    assert asked == {(m, path) for path, methods in DOCUMENT["paths"].items() for m in methods}


def near128(row: np.ndarray, seed: int, cosine: float) -> np.ndarray:
    other = row_of(seed)
    other = other - (other @ row) * row
    return (cosine * row + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)).astype("f4")


NAMES = {
    "<img src=x onerror=alert(1)>": 201,
    "x" * 200: 201,
    "אלישבע": 201,
    "👩‍🚀": 201,
    "x" * 201: 400,
    "   ": 400,
    "a\u202eb": 400,
    "stranger-7": 400,
    "a\nb": 400,
}


def test_names_of_any_kind_are_kept_as_they_are_or_refused(
    client: httpx.Client, eileen: bytes
) -> None:
    for name, status in NAMES.items():
        answer = enrol(client, name, eileen)
        assert answer.status_code == status, (name, answer.text)
        if status == 201:
            assert answer.json()["person"]["name"] == name
        else:
            assert code(answer) == (400, "bad_name")
    kept = {p["name"] for p in client.get("/v1/people").json()["people"]}
    assert kept == {name for name, status in NAMES.items() if status == 201}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind_are_given_later_or_refused_and_nothing_is_done(
    service: Service, client: httpx.Client, name: str
) -> None:
    who = service.gallery.add_stranger(row_of(1))
    mine, nobodys = seen(service, 1, who, row_of(1)), seen(service, 2, None, row_of(2))
    before = client.get("/v1/sightings").json()
    fits = NAMES[name] == 201
    by_faces = client.post("/v1/people/name", json={"name": name, "sightings": [nobodys]})
    renamed = client.patch(f"/v1/people/{who.id}", json={"name": name})
    if fits:
        assert by_faces.is_success and renamed.status_code == 200  # taken in by the namesake
        rows = client.get("/v1/sightings").json()["sightings"]
        assert {row["name"] for row in rows} == {name} and len(rows) == 2
    else:
        assert code(by_faces) == code(renamed) == (400, "bad_name")
        assert client.get("/v1/sightings").json() == before
        assert client.get("/v1/history").json() == {"changes": []}
    number = client.get(f"/v1/sightings/{mine}").json()["person_id"]
    grouped = client.patch(f"/v1/people/{number}", json={"group": name})
    if fits:
        assert grouped.json()["person"]["group"] == name
    else:
        assert code(grouped) == (400, "bad_argument")


def test_a_group_that_cannot_be_enrols_nobody(client: httpx.Client, eileen: bytes) -> None:
    form, files = {"name": "Eileen", "group": "a\nb"}, [("picture", ("x.jpg", eileen))]
    assert code(client.post("/v1/people", data=form, files=files)) == (400, "bad_argument")
    assert client.get("/v1/people").json() == {"people": []}


def test_a_clock_a_day_back_leaves_sightings_visits_and_expiry_whole(
    service: Service, client: httpx.Client
) -> None:
    who = service.gallery.add_stranger(row_of(1))
    now = datetime.now(UTC)
    back = now - timedelta(days=1)
    told, _ = service.store.record(event(1, 1, "seen", who, row_of(1), at=now))
    service.store.record(event(2, 1, "lost", who, row_of(1), at=back))  # the same track
    service.store.record(event(3, 2, "lost", who, row_of(1), at=back))
    row = client.get(f"/v1/sightings/{told}").json()
    assert row["first"] == row["last"] == timestamp(now)
    assert len(client.get("/v1/sightings").json()["sightings"]) == 2
    for visit in client.get("/v1/visits").json()["visits"]:
        assert visit["first"] <= visit["last"]
    ids = [e["id"] for e in client.get("/v1/events").json()["events"]]
    assert len(ids) == len(set(ids)) == 3
    assert not any(service.store.expire(back.timestamp(), service.settings.expiry).values())


def test_uploads_that_are_no_pictures_are_refused_and_nothing_is_done(
    client: httpx.Client, eileen: bytes
) -> None:
    wall = cv2.imencode(".jpg", np.full((200, 200, 3), 90, np.uint8))[1].tobytes()
    for data in (b"", b"hello", eileen[:900], wall):
        assert code(enrol(client, "Bob", data)) == (422, "bad_picture")
    for data in (b"", b"hello", eileen[:900]):
        for path in ("identify", "detect"):
            answer = client.post(f"/v1/{path}", files={"picture": ("x", data)})
            assert code(answer) == (422, "bad_picture")
    assert client.post("/v1/detect", files={"picture": ("x", wall)}).json()["faces"] == []
    assert client.get("/v1/people").json() == {"people": []}
    good = enrol(client, "Bob", eileen, b"hello")
    assert good.json()["added"] == 1 and good.json()["skipped"][0]["picture"] == "picture 2"


def test_bodies_that_cannot_be_read(client: httpx.Client, eileen: bytes) -> None:
    post = client.post
    json_type = {"Content-Type": "application/json"}
    assert code(post("/v1/cameras", content=b"{", headers=json_type)) == (400, "bad_json")
    assert code(post("/v1/cameras", content=b"[]", headers=json_type)) == (400, "bad_json")
    deep = b'{"a":' + b"[" * 100_000
    assert code(post("/v1/cameras", content=deep, headers=json_type)) == (400, "bad_json")
    assert code(post("/v1/cameras", content=b"x=1")) == (415, "bad_type")
    assert code(post("/v1/cameras", content=b"", headers=json_type)) == (400, "bad_argument")
    for path in ("/v1/identify", "/v1/detect", "/v1/verify", "/v1/people", "/v1/sightings/search"):
        empty = post(path, content=b"", headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert empty.status_code == 400 and code(empty)[0] == 400, path
    assert code(post("/v1/cameras", json={})) == (400, "bad_argument")
    assert code(post("/v1/cameras", json={"nmae": 1})) == (400, "bad_argument")
    assert code(post("/v1/identify")) == (415, "bad_type")
    assert code(post("/v1/identify", files={"pic": ("x", eileen)})) == (400, "bad_argument")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert code(post("/v1/identify", content=b"--y\r\n", headers=broken))[0] == 400
    for path in ("/v1/cameras", "/v1/identify"):
        plain = HTTPConnection(client.base_url.host, client.base_url.port, timeout=BOUND)
        plain.putrequest("POST", path)
        plain.putheader("Content-Length", str(1 << 30))
        plain.endheaders(b"{")
        answer = plain.getresponse()
        assert (answer.status, json.load(answer)["error"]["code"]) == (413, "too_large")
        plain.close()

    def endless():
        for _ in range(200):
            yield b"x" * (1 << 16)

    assert code(post("/v1/cameras", content=endless(), headers=json_type)) == (413, "too_large")
    assert client.get("/v1/health").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("get", "/v1/people/99", None, (404, "no_person")),
        ("patch", "/v1/people/99", {"name": "A"}, (404, "no_person")),
        ("delete", "/v1/people/99", None, (404, "no_person")),
        ("get", "/v1/people/99/samples", None, (404, "no_person")),
        ("post", "/v1/people/merge", {"into": 98, "others": [99]}, (404, "no_person")),
        ("post", "/v1/people/merge", {"into": "x", "others": [9]}, (400, "bad_argument")),
        ("post", "/v1/people/merge", {"into": 5, "others": [5]}, (400, "bad_argument")),
        ("post", "/v1/people/merge", {"into": 5, "others": []}, (400, "bad_argument")),
        ("post", "/v1/people/name", {"name": "A", "sightings": [9]}, (404, "no_sighting")),
        ("post", "/v1/people/name", {"name": "A", "sightings": [True]}, (400, "bad_argument")),
        ("get", "/v1/sightings/9", None, (404, "no_sighting")),
        ("get", "/v1/sightings/9/image", None, (404, "no_sighting")),
        ("get", "/v1/sightings/nine", None, (404, "not_found")),
        ("get", "/v1/people/" + "9" * 30, None, (404, "no_person")),
        ("get", "/v1/sightings/" + "9" * 30, None, (404, "no_sighting")),
        ("get", "/v1/sightings?cursor=x", None, (400, "bad_argument")),
        ("get", "/v1/sightings?kind=x", None, (400, "bad_argument")),
        ("get", "/v1/sightings?since=yesterday", None, (400, "bad_argument")),
        ("get", "/v1/sightings?limit=0", None, (400, "bad_argument")),
        ("get", "/v1/visits?limit=1001", None, (400, "bad_argument")),
        ("get", "/v1/visits?since=x", None, (400, "bad_argument")),
        ("get", "/v1/sightings?person=-1", None, (400, "bad_argument")),
        ("get", "/v1/people?kind=x", None, (400, "bad_argument")),
        ("get", "/v1/events?after=never", None, (404, "no_event")),
        ("get", "/v1/cameras/none", None, (404, "no_camera")),
        ("get", "/v1/cameras/none/snapshot.jpg", None, (404, "no_camera")),
        ("delete", "/v1/cameras/none", None, (404, "no_camera")),
        ("post", "/v1/history/9/undo", {}, (409, "not_possible")),
        ("post", "/v1/calibration", {"fpir": 2}, (400, "bad_argument")),
        ("post", "/v1/calibration", {"fpir": 0.01}, (409, "not_possible")),
        ("put", "/v1/people", None, (405, "bad_method")),
        ("get", "/v1/", None, (404, "not_found")),
        ("get", "/../../etc/passwd", None, (404, "not_found")),
    ],
)  # fmt: skip
def test_what_is_not_there_or_makes_no_sense(client, method, path, body, expected) -> None:
    assert code(client.request(method, path, json=body)) == expected


def test_of_two_who_rename_at_once_the_later_sees_what_the_earlier_did(
    service: Service, client: httpx.Client
) -> None:
    who = service.gallery.add_stranger(row_of(1))
    path = f"/v1/people/{who.id}"
    assert client.patch(path, json={"name": "Ann", "was": who.name}).status_code == 200
    late = client.patch(path, json={"name": "Bea", "was": who.name})
    assert code(late) == (409, "changed_since")
    assert late.json()["error"]["details"]["person"]["name"] == "Ann"
    assert service.gallery.person("Ann").id == who.id


def test_of_many_who_rename_in_the_same_moment_one_succeeds(
    service: Service, client: httpx.Client
) -> None:
    who = service.gallery.add_stranger(row_of(1))
    path, ready = f"/v1/people/{who.id}", threading.Barrier(8)
    answers: list[httpx.Response] = []

    def rename(name: str) -> None:
        ready.wait(BOUND)
        answers.append(client.patch(path, json={"name": name, "was": who.name}))

    threads = [threading.Thread(target=rename, args=(f"Ann {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    first = [a for a in answers if a.is_success]
    assert len(first) == 1 and len(answers) == 8
    name = first[0].json()["person"]["name"]
    late = [a for a in answers if not a.is_success]
    assert {code(a) for a in late} == {(409, "changed_since")}
    assert {a.json()["error"]["details"]["person"]["name"] for a in late} == {name}


def test_a_name_reaches_the_past_and_is_taken_back(service: Service, client) -> None:
    who = service.gallery.add_stranger(row_of(1))
    numbers = [seen(service, n, who, row_of(1)) for n in range(1, 8)]
    before = client.get("/v1/sightings").json()
    named = client.patch(f"/v1/people/{who.id}", json={"name": "Dora"}).json()
    rows = client.get("/v1/sightings", params={"person": who.id}).json()["sightings"]
    assert {r["name"] for r in rows} == {"Dora"} and len(rows) == len(numbers)
    client.post(f"/v1/history/{named['changes'][0]['id']}/undo")
    assert client.get("/v1/sightings").json() == before


def test_ignored_and_heeded_again(service: Service, client: httpx.Client) -> None:
    who = service.gallery.add_stranger(row_of(1))
    path = f"/v1/people/{who.id}"
    assert client.patch(path, json={"ignored": True}).json()["person"]["kind"] == "ignored"
    assert client.patch(path, json={"ignored": True}).json()["changes"] == []
    assert client.patch(path, json={"ignored": False}).json()["person"]["kind"] == "stranger"
    assert code(client.patch(path, json={"ignored": "no"})) == (400, "bad_argument")
    assert client.get("/v1/system").json()["people"] == {"known": 0, "stranger": 1, "ignored": 0}


def test_cameras_added_are_kept_and_their_passwords_told_to_nobody(
    service: Service, client: httpx.Client, describer: Describer
) -> None:
    source = "rtsp://user:secret@127.0.0.1:9/x"
    made = client.post("/v1/cameras", json={"name": "door", "source": source})
    assert made.status_code == 201 and "secret" not in made.text
    assert code(client.post("/v1/cameras", json={"name": "door", "source": "0"})) == (409, "exists")
    until(lambda: client.get("/v1/cameras/door").json()["error"])
    state = client.get("/v1/cameras/door")
    assert "refuses" in state.json()["error"] and "secret" not in state.text
    assert code(client.get("/v1/cameras/door/snapshot.jpg")) == (503, "no_frame")
    file = Path(f"{service.settings.beside}.cameras.json")
    assert file.stat().st_mode & 0o777 == 0o600
    again = Service(service.settings, describer, service.gallery, service.store)
    assert [spec.source for spec in again._kept()] == [source]
    client.patch("/v1/cameras/door", json={"name": "gate"})
    assert [spec.name for spec in again._kept()] == ["gate"]
    assert client.delete("/v1/cameras/gate").status_code == 204
    assert again._kept() == []


def test_a_camera_that_is_none_says_so_and_the_service_goes_on(client: httpx.Client) -> None:
    made = client.post("/v1/cameras", json={"name": "x", "source": "/no/such/thing"})
    assert made.status_code == 201
    until(lambda: client.get("/v1/cameras/x").json()["state"] == "failed")
    assert "no file, folder, camera" in client.get("/v1/cameras/x").json()["error"]
    for bad in ({"name": "a/b", "source": "0"}, {"name": "y", "source": " "}):
        assert code(client.post("/v1/cameras", json=bad)) == (400, "bad_argument")


def test_pictures_are_encoded_only_while_somebody_looks(
    service: Service, client: httpx.Client, tmp_path: Path
) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((120, 160, 3), 60 * index, np.uint8))
    from edgeface.cameras import CameraSpec

    camera = service.cameras.add(CameraSpec("wall", str(tmp_path), repeat=True))
    camera.snapshot(10, timeout=BOUND)
    assert service.stills.encoded == 0
    begin = time.monotonic()
    with client.stream("GET", "/v1/cameras/wall/preview.mjpeg") as answer:
        parts = 0
        for data in answer.iter_bytes():
            parts += data.count(b"Content-Type: image/jpeg")
            if parts >= 6:
                break
    assert time.monotonic() - begin >= 0.4  # six pictures at ten a second
    until(lambda: service.stills.watching == 0)
    done = service.stills.encoded
    camera.snapshot(camera.state().frames + 15, timeout=BOUND)
    assert service.stills.encoded == done


def test_a_store_that_fails_is_told_and_the_service_goes_on(service, client) -> None:
    file = service.store.file
    with file.write() as execute:
        execute("ALTER TABLE appearance RENAME TO away")
    assert code(client.get("/v1/sightings")) == (503, "store_unavailable")
    assert client.get("/v1/cameras").status_code == 200
    with file.write() as execute:
        execute("ALTER TABLE away RENAME TO appearance")
    assert client.get("/v1/sightings").json()["sightings"] == []


def test_many_pictures_at_once_do_not_keep_streams_waiting(service, client, eileen) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(client.post("/v1/detect", files={"picture": ("x.jpg", eileen)}))

    threads = [threading.Thread(target=ask) for _ in range(WAITING + 4)]
    with service._looking:
        for thread in threads:
            thread.start()
        until(lambda: len(answers) == 4)
        assert [code(a) for a in answers] == [(503, "busy")] * 4
        assert answers[0].headers["retry-after"] == "2"
        assert client.get("/v1/people").status_code == 200
    for thread in threads:
        thread.join(BOUND)
    assert sorted(a.status_code for a in answers) == [200] * WAITING + [503] * 4


def test_a_full_disk_is_told_and_nothing_is_half_done(service, client, eileen: bytes) -> None:
    who = service.gallery.add_stranger(row_of(1))
    numbers = [seen(service, n, None, row_of(n)) for n in range(1000, 1400)]
    with service.store.file.write() as execute:
        ((pages,),) = execute("PRAGMA page_count")
        execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(GalleryError, match="full"):
        for number in range(10, 500):
            seen(service, number, who, row_of(number))
    before = [client.get(path).json() for path in ("/v1/people", "/v1/sightings", "/v1/events")]
    answer = client.post("/v1/people/name", json={"name": "A" * 200, "sightings": numbers})
    assert code(answer) == (503, "store_unavailable")
    after = [client.get(path).json() for path in ("/v1/people", "/v1/sightings", "/v1/events")]
    assert after == before
    with service.store.file.write() as execute:
        execute("PRAGMA max_page_count = 1000000")
    assert client.post("/v1/people/name", json={"name": "Al", "sightings": numbers}).is_success


def test_a_gallery_that_is_taken_away_is_told(service, client, eileen: bytes) -> None:
    assert enrol(client, "Ann", eileen).status_code == 201
    path = Path(service.settings.gallery)
    path.rename(path.with_name("away"))
    for answer in (enrol(client, "Bob", eileen), client.get("/v1/people")):
        if answer.is_error:
            assert code(answer) == (503, "store_unavailable")
    path.with_name("away").rename(path)
    assert client.get("/v1/health").status_code == 200
    assert {p["name"] for p in client.get("/v1/people").json()["people"]} >= {"Ann"}


def test_a_defect_is_told_as_one_and_nothing_of_it(service, client, monkeypatch, caplog) -> None:
    monkeypatch.setattr(service.store, "newest", lambda: {}["a secret"])
    answer = client.get("/v1/health")
    assert code(answer) == (500, "internal") and "secret" not in answer.text
    assert "a request failed" in caplog.text


def test_kinds_are_those_of_the_gallery() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["Person"]["properties"]["kind"]["enum"] == [str(k) for k in Kind]


def test_a_picture_that_cannot_be_recognised_enrols_nobody(
    service: Service, client: httpx.Client, eileen: bytes
) -> None:
    image = cv2.imdecode(np.frombuffer(eileen, np.uint8), cv2.IMREAD_COLOR)
    blurred = cv2.imencode(".jpg", cv2.GaussianBlur(image, (0, 0), 7))[1].tobytes()
    answer = enrol(client, "Eileen", blurred)
    assert code(answer) == (422, "bad_picture")
    assert "strangers may be taken for it" in answer.json()["error"]["message"]
    assert "accept poor ones" in answer.json()["error"]["message"]  # which can be done:
    form = {"name": "Poor", "accept_poor": "true"}
    files = [("picture", ("x.jpg", blurred))]
    assert client.post("/v1/people", data=form, files=files).json()["added"] == 1
    odd = client.post("/v1/people", data=form | {"accept_poor": "yes"}, files=files)
    assert code(odd) == (400, "bad_argument")
    answer = enrol(client, "Eileen", blurred, eileen)
    assert answer.json()["added"] == 1 and len(answer.json()["skipped"]) == 1
    assert len(service.gallery.samples("Eileen")) == 1
