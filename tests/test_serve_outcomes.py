"""What becomes of strangers, judged on the page, against what the threshold promised."""

# ruff: noqa: F811 - fixtures that are imported

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import serving
from test_serve import row_of, seen, service  # noqa: F401 - a fixture

from edgeface.serve.outcomes import Outcomes, kind_of
from edgeface.serve.service import Service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with serving(service) as it:
        yield it


def outcome(client: httpx.Client) -> tuple[int, int, str | None]:
    found = client.get("/v1/calibration").json()["outcome"]
    assert (found["seen"] is None) == (found["trials"] == 0)
    return found["wrong"], found["trials"], found["warning"]


def mistaken(service: Service, number: int, who, row) -> int:
    """An appearance that the threshold of this moment took for somebody known; its id."""
    found = seen(service, number, who, row)
    with service.store.file.write() as execute:
        origin = service.identifier.thresholds().known.origin
        execute("UPDATE appearance SET origin = ? WHERE id = ?", (origin, found))
    return found


def test_a_stranger_is_one_trial_whatever_is_said_of_them(
    service: Service,
    client: httpx.Client,
) -> None:
    ann = service.gallery.enroll("Ann", row_of(1)[None])
    stranger = service.gallery.add_stranger(row_of(2))
    for number in (1, 2, 3):
        seen(service, number, stranger, row_of(2))
    wrong = mistaken(service, 4, ann, row_of(3))
    assert outcome(client) == (0, 0, None)

    named = client.patch(f"/v1/people/{stranger.id}", json={"name": "Ben"}).json()
    assert outcome(client) == (0, 1, None)
    client.patch(f"/v1/people/{stranger.id}", json={"name": "Benjamin"})  # known by now
    assert outcome(client) == (0, 1, None)

    path = f"/v1/people/{ann.id}/not-this"
    parted = client.post(path, json={"sightings": [wrong]}).json()
    assert outcome(client)[:2] == (1, 2)
    other = client.get(f"/v1/sightings/{wrong}").json()["person_id"]
    client.patch(f"/v1/people/{other}", json={"name": "Cleo"})  # they stay one trial
    assert outcome(client)[:2] == (1, 2)

    again = Outcomes(Path(f"{service.settings.beside}.outcomes.json"), service.store)
    limit = service.identifier.thresholds().known
    assert (again.judged(limit, None).wrong, again.judged(limit, None).trials) == (1, 2)
    text = Path(f"{service.settings.beside}.outcomes.json").read_text()
    assert not any(name in text for name in ("Ann", "Ben", "Cleo"))
    assert parted["changes"][0]["action"] == "not_this" and named["changes"]


def test_what_is_taken_back_or_forgotten_counts_no_more(
    service: Service,
    client: httpx.Client,
) -> None:
    stranger = service.gallery.add_stranger(row_of(2))
    seen(service, 1, stranger, row_of(2))
    path = f"/v1/people/{stranger.id}"
    change = client.patch(path, json={"name": "Ben"}).json()["changes"][0]["id"]
    client.post(f"/v1/history/{change}/undo")
    assert outcome(client) == (0, 0, None)
    client.patch(path, json={"name": "Ben"})
    assert outcome(client) == (0, 1, None)
    client.delete(path)
    assert outcome(client) == (0, 0, None)


def test_a_stranger_who_was_somebody_known_is_no_trial(
    service: Service,
    client: httpx.Client,
) -> None:
    ann = service.gallery.enroll("Ann", row_of(1)[None])
    for seed, say in ((2, "name"), (3, "merge")):
        stranger = service.gallery.add_stranger(row_of(seed))
        if say == "name":
            answer = client.patch(f"/v1/people/{stranger.id}", json={"name": "Ann"})
        else:
            body = {"into": ann.id, "others": [stranger.id]}
            answer = client.post("/v1/people/merge", json=body)
        assert answer.status_code == 200, answer.text
        assert outcome(client) == (0, 0, None)


def test_a_name_that_somebody_gave_is_no_mistake_of_the_threshold(
    service: Service,
    client: httpx.Client,
) -> None:
    stranger = service.gallery.add_stranger(row_of(2))
    first, second = (seen(service, n, stranger, row_of(2)) for n in (1, 2))
    client.patch(f"/v1/people/{stranger.id}", json={"name": "Ben"})
    with service.store.file.read() as execute:
        assert {s for (s,) in execute("SELECT status FROM appearance")} == {"stranger"}
    client.post(f"/v1/people/{stranger.id}/not-this", json={"sightings": [first]})
    assert outcome(client)[0] == 0 and second


def test_the_promise_is_that_of_the_threshold_and_a_broken_one_is_told_of(
    service: Service,
    client: httpx.Client,
) -> None:
    ann = service.gallery.enroll("Ann", row_of(1)[None])
    found = client.get("/v1/calibration").json()
    promised, origin = found["promised"], found["known"]["origin"]
    assert promised["low"] <= promised["value"] <= promised["high"] < 0.01
    assert kind_of(origin) == "card:fpir=1e-3"
    for number in range(1, 7):
        wrong = mistaken(service, number, ann, row_of(number + 10))
        answer = client.post(f"/v1/people/{ann.id}/not-this", json={"sightings": [wrong]})
        assert answer.status_code == 200, answer.text
    assert outcome(client) == (6, 6, "more")


def test_a_file_that_cannot_be_read_is_told_and_begun_anew(
    service: Service,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number, text in enumerate(("{", "[1]", json.dumps([{"change": 1}]))):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert Outcomes(path, service.store)._rows == []
        assert "counting anew" in caplog.text
        caplog.clear()
