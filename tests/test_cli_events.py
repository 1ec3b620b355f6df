"""What a watch prints is what docs/events.md and its JSON Schema say, in every state of a track."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from conftest import ROOT

from edgeface.types import EVENT_VERSION, EventKind, Kind, Status

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((ROOT / "docs" / "event.schema.json").read_text(encoding="utf-8"))
FACE, CAMERA, PERSON = (SCHEMA["$defs"][name] for name in ("face", "camera", "person"))
DOCUMENT = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")


@pytest.fixture
def check() -> Any:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA)


def test_real_events_fit_the_schema(run: Run, check: Any, sample: Path, tmp_path: Path) -> None:
    gallery, before = tmp_path / "g.gallery", datetime.now(UTC)
    assert run("enroll", gallery, "Eileen", sample / "eileen.jpg").code == 0
    first = run("identify", "--video", sample / "clip.mp4", "-g", gallery, "--learn").rows
    again = run("identify", "--video", sample / "clip.mp4", "-g", gallery).rows
    for event in first + again:
        check.validate(event)
        assert list(event) == FACE["required"]  # the order of the documents
        assert event["version"] == EVENT_VERSION
        taken = datetime.fromisoformat(event["ts"])
        assert before - timedelta(seconds=1) <= taken <= datetime.now(UTC)
    kinds = {(e["status"], e["kind"]) for e in first + again}
    assert ("match", "known") in kinds and ("stranger", "stranger") in kinds
    for events in (first, again):
        assert len({e["run"] for e in events}) == 1
        seen = Counter(e["track"] for e in events if e["event"] == "seen")
        lost = Counter(e["track"] for e in events if e["event"] == "lost")
        assert seen == lost and set(seen.values()) == {1}
    ids = [e["id"] for e in first + again]
    assert len(set(ids)) == len(ids) and ids == sorted(ids)
    assert first[0]["run"] != again[0]["run"]
    for event in first:
        assert event["size"] == [640, 360] and event["camera"].endswith("clip.mp4")


def test_the_schema_refuses_what_no_event_may_be(check: Any) -> None:
    line, camera, person = re.findall(r"^```json\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
    good = json.loads(line)
    check.validate(good)
    for change in (
        {"status": "match", "kind": "stranger"},  # a door would open
        {"status": "stranger", "kind": "known"},
        {"status": "unknown"},  # with the name still there
        {"name": None},
        {"ts": "2026-03-01 09:30"},
        {"box": [1, 2, 3]},
        {"event": "gone"},
        {"version": 2},
        {"similarity": 87},
        {"id": ""},
    ):
        assert not check.is_valid(good | change), change
    for field in good:
        assert not check.is_valid({k: v for k, v in good.items() if k != field}), field
    lost = json.loads(camera)
    check.validate(lost)
    assert list(lost) == CAMERA["required"]
    assert check.is_valid(lost | {"event": "camera_back", "reason": None})
    for field in lost:
        assert not check.is_valid({k: v for k, v in lost.items() if k != field}), field
    named = json.loads(person)
    check.validate(named)
    assert list(named) == PERSON["required"]
    for change in ({"kind": "friend"}, {"name": ""}, {"person_id": "7"}, {"ts": 1}):
        assert not check.is_valid(named | change), change
    assert not check.is_valid(lost | {"ts": 1}) and not check.is_valid(lost | {"reason": 1})
    assert check.is_valid(good | {"field_of_a_later_version": 1})


def test_the_document_names_every_field_and_value() -> None:
    for field in FACE["required"] + CAMERA["required"]:
        assert re.search(rf"^\| [^|]*`{field}`", DOCUMENT, re.MULTILINE), field
    for value in itertools.chain(EventKind, Kind, Status):
        assert f"`{value}`" in DOCUMENT, value
    for value in SCHEMA["if"]["properties"]["event"]["enum"]:
        assert f"`{value}`" in DOCUMENT, value
    assert set(FACE["properties"]["event"]["enum"]) == {str(k) for k in EventKind}
    assert set(FACE["properties"]["status"]["enum"]) == {str(s) for s in Status}
