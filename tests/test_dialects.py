"""The interfaces of DeepStack, CodeProject.AI and CompreFace, asked as Double Take and viseron ask.

Requests after Double Take's `api/src/util/detectors/{deepstack,aiserver,compreface}.js`, viseron's
`components/{deepstack,codeprojectai,compreface}/face_recognition.py` and the packages it asks with
(deepstack-python, codeprojectai-api, compreface-sdk). What of an answer they read is read here in
the same way.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from conftest import ROOT
from serving import READ, TOKEN, filed, listening
from test_serve_guard import ACCESS, ADMIN, ask

from edgeface.describe import Describer
from edgeface.errors import ArgumentError
from edgeface.serve import config
from edgeface.serve.access import Access
from edgeface.serve.app import application
from edgeface.serve.config import ServiceSettings, load
from edgeface.serve.dialects import DIALECTS
from edgeface.serve.service import Service

DEEPSTACK, COMPREFACE = "/v1/vision/face", "/api/v1/recognition"


@pytest.fixture
def service(tmp_path: Path, describer: Describer) -> Iterator[Service]:
    with filed(tmp_path, describer) as made:
        yield made


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    service.settings = replace(service.settings, dialects=("deepstack", "compreface"))
    app = application(service, Access(TOKEN, READ))
    with listening(service, app) as address, httpx.Client(base_url=address, timeout=30) as it:
        yield it


@pytest.fixture
def eileen(sample: Path) -> bytes:
    return (sample / "eileen.jpg").read_bytes()


@pytest.fixture(scope="module")
def both(sample: Path) -> bytes:
    """A frame with two people, of whom the left one is Eileen."""
    capture = cv2.VideoCapture(str(sample / "clip.mp4"))
    for _ in range(91):
        _, frame = capture.read()
    return bytes(cv2.imencode(".jpg", frame)[1])


WALL = bytes(cv2.imencode(".jpg", np.full((200, 200, 3), 90, np.uint8))[1])


class DoubleTakeDeepStack:
    """deepstack.js: the picture, then `userid`, then `api_key`, in one form."""

    def __init__(self, client: httpx.Client, key: str = TOKEN) -> None:
        self._client, self._key = client, key

    def post(self, path: str, picture: bytes | None, **fields: str) -> httpx.Response:
        parts = [] if picture is None else [("image", ("snapshot.jpg", picture, "image/jpeg"))]
        parts += [(name, (None, value)) for name, value in fields.items()]
        parts += [("api_key", (None, self._key))]
        return self._client.post(f"{DEEPSTACK}/{path}", files=parts)

    @staticmethod
    def normalize(data: dict[str, Any]) -> list[dict[str, Any]]:
        if data["success"] is False:
            return []
        return [
            {
                "name": p["userid"].lower() if p["confidence"] * 100 >= 40 else "unknown",
                "match": p["userid"] != "unknown" and p["confidence"] * 100 >= 60,
                "area": (p["x_max"] - p["x_min"]) * (p["y_max"] - p["y_min"]),
                "left": p["x_min"],
            }
            for p in data["predictions"]
        ]


def test_double_take_over_deepstack(client, eileen, both) -> None:
    take = DoubleTakeDeepStack(client)
    nobody = take.normalize(take.post("recognize", both).json())
    assert [(p["name"], p["match"]) for p in nobody] == [("unknown", False)] * 2
    trained = take.post("register", eileen, userid="Eileen")
    assert (trained.status_code, trained.json()["message"]) == (200, "face added")
    assert take.post("register", eileen, userid="Eileen").json()["message"] == "face updated"
    found = sorted(take.normalize(take.post("recognize", both).json()), key=lambda p: p["left"])
    assert [(p["name"], p["match"]) for p in found] == [("eileen", True), ("unknown", False)]
    assert all(p["area"] > 1000 for p in found)
    assert take.normalize(take.post("recognize", WALL).json()) == []
    assert take.post("recognize", WALL).json() == {"success": True, "code": 200, "predictions": []}
    refused = take.post("register", WALL, userid="Nobody")
    assert refused.status_code == 400
    assert refused.json() == {"success": False, "code": 400, "error": "no face detected"}
    assert take.post("delete", None, userid="Eileen").json()["success"] is True
    assert take.post("delete", None, userid="Eileen").json()["success"] is True  # nobody now
    assert take.post("list", None).json()["faces"] == []


@pytest.mark.parametrize("keyless", [False, True])
def test_viseron_over_deepstack_and_codeproject(client, eileen, both, keyless: bool) -> None:
    """deepstack-python and codeprojectai-api ask with `requests`: the fields, then a file called
    as its field; lists and deletions urlencoded. CodeProject.AI has no key: it goes into the
    address, ip `edgeface:TOKEN@HOST`."""
    login = ("edgeface", TOKEN) if keyless else None
    fields = {"min_confidence": "0.45"} if keyless else {"api_key": TOKEN}

    def process(path: str, picture: bytes, **data: str) -> dict[str, Any]:
        answer = client.post(
            f"{DEEPSTACK}{path}", files={"image": ("image", picture)}, data=data | fields,
            **({"auth": login} if login else {}),
        )  # fmt: skip
        assert answer.status_code == 200
        return answer.json()

    def post(path: str, **data: str) -> dict[str, Any]:
        data |= {} if keyless else fields
        answer = client.post(f"{DEEPSTACK}{path}", data=data, **({"auth": login} if login else {}))
        assert answer.status_code == 200
        return answer.json()

    post("/delete", userid="Eileen")
    assert len(process("", eileen)["predictions"]) == 1
    assert len(process("", both)["predictions"]) == 2 and process("/", WALL)["predictions"] == []
    assert process("/register", eileen, userid="Eileen")["success"] is True
    assert post("/list") == {"success": True, "code": 200, "faces": ["Eileen"]}
    found = process("/recognize", both)
    assert found["success"]
    named = [p for p in found["predictions"] if p["userid"] != "unknown"]
    assert [p["userid"] for p in named] == ["Eileen"] and 0.6 <= named[0]["confidence"] <= 1
    assert {"x_min", "y_min", "x_max", "y_max"} < set(named[0])
    fields["min_confidence"] = "0.999"
    assert {p["userid"] for p in process("/recognize", both)["predictions"]} == {"unknown"}


def test_double_take_over_compreface(client, eileen, both) -> None:
    """compreface.js: the picture as `file`, `x-api-key`, names and thresholds in the query."""
    head = {"x-api-key": TOKEN}

    def recognize(picture: bytes) -> httpx.Response:
        return client.post(
            f"{COMPREFACE}/recognize", params={"det_prob_threshold": 0.8}, headers=head,
            files={"file": ("snapshot.jpg", picture, "image/jpeg")},
        )  # fmt: skip

    def normalize(data: dict[str, Any]) -> list[tuple[str, bool]]:
        if data.get("code") == 28:
            return []
        found = []
        for row in sorted(data["result"], key=lambda r: r["box"]["x_min"]):
            face = row["subjects"][0] if row["subjects"] else None
            percent = round(face["similarity"] * 100, 2) if face else 0
            assert row["box"]["x_max"] > row["box"]["x_min"] >= 0
            assert row["box"]["y_max"] > row["box"]["y_min"] >= 0
            found.append((face["subject"] if face else "unknown", percent >= 60))
        return found

    assert normalize(recognize(both).json()) == [("unknown", False)] * 2
    nothing = recognize(WALL)
    assert nothing.status_code == 400
    assert nothing.json() == {"message": "No face is found in the given image", "code": 28}
    assert normalize(nothing.json()) == []
    trained = client.post(
        f"{COMPREFACE}/faces", params={"subject": "Eileen"}, headers=head,
        files={"file": ("1.jpg", eileen, "image/jpeg")},
    )  # fmt: skip
    assert trained.status_code == 201 and set(trained.json()) == {"image_id", "subject"}
    assert normalize(recognize(both).json()) == [("Eileen", True), ("Eileen", False)]
    gone = client.delete(f"{COMPREFACE}/faces", params={"subject": "Eileen"}, headers=head)
    assert gone.json() == {"deleted": 1}
    gone = client.delete(f"{COMPREFACE}/faces", params={"subject": "Eileen"}, headers=head)
    assert gone.json() == {"deleted": 0}


def test_viseron_over_compreface(client, service, eileen, both) -> None:
    """compreface-sdk: `?&limit=0&…`, a file called image.jpg, examples deleted before training."""
    head = {"x-api-key": TOKEN}
    options = "&limit=0&det_prob_threshold=0.8&prediction_count=1&status=False"

    def post(path: str, picture: bytes) -> dict[str, Any]:
        files = {"file": ("image.jpg", picture)}
        return client.post(f"{COMPREFACE}/{path}", headers=head, files=files).json()

    client.delete(f"{COMPREFACE}/faces?subject=Eileen", headers=head)
    assert "message" not in post(f"faces?subject=Eileen{options}", eileen)
    assert post(f"faces?subject=Eileen{options}", both)["code"] == 31
    assert post(f"faces?subject=Eileen{options}", WALL)["code"] == 28
    found = post(f"recognize?{options}", both)
    best = [row["subjects"][0] for row in found["result"]]
    assert sorted(s["similarity"] >= 0.6 for s in best) == [False, True]
    assert "result" not in post(f"recognize?{options}", WALL)
    one = post("recognize?limit=1&face_plugins=landmarks,age&status=true", both)
    assert len(one["result"]) == 1 and np.array(one["result"][0]["landmarks"]).shape == (5, 2)
    assert set(one["plugins_versions"]) == {"detector", "calculator"}
    with_others = service.gallery.enroll("Other", np.eye(128, dtype=np.float32)[:1])
    many = post("recognize?prediction_count=5", both)["result"]
    assert {len(row["subjects"]) for row in many} == {2}
    service.store.people.ignore(service.gallery.person("Eileen").id)
    assert len(post("recognize", both)["result"]) == 1  # recognised, and of no interest
    assert with_others.name == "Other"


def test_the_subjects_of_compreface(client, service, eileen) -> None:
    head = {"x-api-key": TOKEN}
    for name in ("Ann/é", "Ben"):
        client.post(f"{COMPREFACE}/faces", params={"subject": name}, headers=head,
                    files={"file": ("1.jpg", eileen)}).raise_for_status()  # fmt: skip
    service.gallery.add_stranger(np.eye(128, dtype=np.float32)[5])
    for path in ("subjects", "subjects/"):
        found = client.get(f"{COMPREFACE}/{path}", headers=head).json()
        assert found == {"subjects": ["Ann/é", "Ben"]}
    pages = [client.get(f"{COMPREFACE}/faces?page={n}&size=1", headers=head).json() for n in (0, 1)]
    assert [p["faces"][0]["subject"] for p in pages] == ["Ann/é", "Ben"]
    assert pages[0] | {"faces": 0} == {
        "faces": 0, "page_number": 0, "page_size": 1, "total_pages": 2, "total_elements": 2
    }  # fmt: skip
    address = f"{COMPREFACE}/subjects/Ben"
    renamed = client.put(address, headers=head, json={"subject": "Cleo"})
    assert renamed.json() == {"updated": True}
    assert client.put(address, headers=head, json={"subject": "D"}).json() == {"updated": False}
    assert client.delete(address, headers=head).status_code == 404
    gone = client.delete(f"{COMPREFACE}/subjects/Cleo", headers=head)
    assert gone.json() == {"subject": "Cleo"}
    everybody = client.delete(f"{COMPREFACE}/faces", headers=head)  # never from here
    assert everybody.status_code == 400 and everybody.json()["code"] == 33
    assert [p.name for p in service.gallery.people() if p.kind == "known"] == ["Ann/é"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_document_work(client, eileen, both, tmp_path) -> None:
    (tmp_path / "alice1.jpg").write_bytes(eileen)
    (tmp_path / "group.jpg").write_bytes(both)
    text = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    for part in ("## DeepStack", "## CompreFace"):
        section = text.partition(part)[2].partition("\n## ")[0]
        commands = re.findall(r"^\$ (curl .*)$", section, re.MULTILINE)
        (shown,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
        told = []
        for command in commands:
            here = command.replace("http://127.0.0.1:8377", str(client.base_url).rstrip("/"))
            done = subprocess.run(
                ["bash", "-c", here],
                cwd=tmp_path, env={"TOKEN": TOKEN, "PATH": os.environ["PATH"]},
                capture_output=True, check=True,
            )  # fmt: skip
            told.append(json.loads(done.stdout))
        assert len(told) == 2 and shape(told[1]) == shape(json.loads(shown)), part


def shape(value: Any) -> Any:
    """The keys of an answer and of the first of its rows, at any depth."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value)


BASIC = "Basic " + base64.b64encode(f"x:{READ}".encode()).decode()


@pytest.mark.parametrize(
    ("head", "key", "reads", "writes"),
    [
        ({}, None, 401, 401),
        ({}, "wrong", 401, 401),
        ({}, READ, 200, 403),
        ({}, TOKEN, 200, 200),
        ({"authorization": f"Bearer {READ}"}, None, 200, 403),
        ({"authorization": f"Bearer {TOKEN}"}, "wrong", 200, 200),
        ({"authorization": "Bearer wrong"}, TOKEN, 401, 401),  # one that is sent has to be right
        ({"authorization": BASIC}, None, 200, 403),
        ({"authorization": "Basic ?"}, None, 401, 401),
        ({"x-api-key": TOKEN}, None, 401, 401),  # CompreFace's place
        ({"origin": "http://evil.example"}, TOKEN, 403, 403),
        ({"sec-fetch-site": "cross-site"}, TOKEN, 403, 403),
        ({"host": "evil.example"}, TOKEN, 421, 421),
    ],
)
def test_who_may_ask_in_deepstacks_form(client, head, key, reads, writes) -> None:
    data = {"userid": "Nobody"} | ({} if key is None else {"api_key": key})
    for path, expected in (("list", reads), ("delete", writes)):
        answer = client.post(f"{DEEPSTACK}/{path}", data=data, headers=head)
        assert answer.status_code == expected
        assert answer.json()["success"] is (expected == 200)


@pytest.mark.parametrize(
    ("head", "reads", "writes"),
    [
        ({}, 401, 401),
        ({"x-api-key": "wrong"}, 401, 401),
        ({"x-api-key": READ}, 200, 403),
        ({"x-api-key": TOKEN}, 200, 200),
        ({"authorization": f"Bearer {TOKEN}"}, 200, 200),
        ({"authorization": BASIC}, 200, 403),
        ({"x-api-key": TOKEN, "origin": "http://evil.example"}, 200, 403),
        ({"x-api-key": TOKEN, "host": "evil.example"}, 421, 421),
    ],
)
def test_who_may_ask_in_comprefaces_form(client, head, reads, writes) -> None:
    answer = client.get(f"{COMPREFACE}/subjects", headers=head)
    assert answer.status_code == reads
    answer = client.delete(f"{COMPREFACE}/faces?subject=x", headers=head)
    assert answer.status_code == writes
    if writes != 200:
        assert set(answer.json()) == {"message", "code"}


def test_no_other_address_takes_those_tokens(client) -> None:
    for head in ({"x-api-key": TOKEN}, {"authorization": BASIC}):
        for path in ("/v1/people", "/v1/vision", "/v1/vision/faces", "/metrics"):
            assert client.get(path, headers=head).status_code == 401
    answer = client.post("/v1/identify", data={"api_key": TOKEN})
    assert answer.status_code == 401 and "request_id" in answer.json()


def test_bodies_are_bounded_and_wrong_ones_answered(client, eileen) -> None:
    take = DoubleTakeDeepStack(client)
    assert take.post("recognize", b"x" * (17 << 20)).status_code == 413
    for picture, fields in ((None, {}), (b"no picture", {}), (eileen, {"min_confidence": "2"})):
        answer = take.post("recognize", picture, **fields)
        assert 400 <= answer.status_code < 500 and answer.json()["success"] is False
    assert take.post("register", eileen).json()["error"].startswith("userid is None")
    assert take.post("register", None, userid="x").status_code == 400
    assert take.post("delete", None).status_code == 400
    head = {"x-api-key": TOKEN}
    answer = client.post(f"{COMPREFACE}/recognize", headers=head, files={"x": ("1.jpg", eileen)})
    assert (answer.status_code, answer.json()["code"]) == (400, 33)
    answer = client.post(f"{COMPREFACE}/recognize", headers=head, files={"file": ("1", b"no")})
    assert answer.json()["code"] == 21
    many = client.post(
        f"{COMPREFACE}/recognize?det_prob_threshold=x", headers=head, files={"file": ("1", eileen)}
    )
    assert many.status_code == 400


def test_they_are_off_unless_asked_for(service, tmp_path) -> None:
    app = application(service, Access(TOKEN, READ))
    head = {"Authorization": f"Bearer {TOKEN}", "x-api-key": TOKEN}
    with listening(service, app) as address, httpx.Client(base_url=address, headers=head) as it:
        for dialect in DIALECTS.values():
            for method, path, _, _ in dialect.routes:
                answer = it.request(method, path.replace("{subject}", "x"))
                assert answer.status_code in (404, 405), path
                assert "request_id" in answer.json()
    assert ask("POST", f"{DEEPSTACK}/list").status == 401
    assert ask("GET", f"{COMPREFACE}/subjects", **{"x-api-key": ADMIN}).status == 200  # the page
    assert ACCESS.scope_of(ADMIN) == "admin"


def test_settings(tmp_path: Path) -> None:
    assert set(config.DIALECTS) == set(DIALECTS) == {d.name for d in DIALECTS.values()}
    (tmp_path / "s.toml").write_text("gallery = 'g'\ndialects = ['deepstack']\n")
    assert load(tmp_path / "s.toml", {}, {}).dialects == ("deepstack",)
    with pytest.raises(ArgumentError, match="no dialect 'facebox'; there are: compreface, deep"):
        ServiceSettings("g", dialects=("facebox",))
