"""Visits over several cameras, as the service tells them."""

# ruff: noqa: F811 - fixtures that are imported

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from serving import serving
from test_serve import near128, row_of, service  # noqa: F401 - a fixture
from test_sightings import event

from edgeface.serve.service import Service

NOW = datetime.now(UTC) - timedelta(minutes=5)


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with serving(service) as it:
        yield it


def came(service: Service, camera: str, number: int, row: np.ndarray, who=None) -> int:
    at = NOW + timedelta(seconds=30 * number)
    told = event(number, number, "seen", who, row, at=at, camera=camera)
    return service.store.record(told)[0]


def test_cameras_that_know_nobody_say_together_who_it_is(
    service: Service, client: httpx.Client
) -> None:
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((128, 6)))[0].T.astype("f4")
    ann = service.gallery.enroll("Ann", axes[:1])
    service.gallery.enroll("Ben", axes[5:6])
    limits = service.identifier.thresholds()
    # Like Ann, not enough for her name; as alike as strangers must be; else different.
    like, alike = limits.known.value - 0.04, limits.stranger.value + 0.05
    own = np.sqrt(1 - alike)
    rest = np.sqrt(alike - like**2)
    rows = [like * axes[0] + rest * axes[1] + own * axes[2 + i] for i in range(3)]
    numbers = [came(service, c, n, r) for n, (c, r) in enumerate(zip("abc", rows, strict=True), 1)]
    (visit,) = client.get("/v1/visits").json()["visits"]
    assert visit["sightings"] == numbers and visit["cameras"] == ["a", "b", "c"]
    assert visit["person_id"] is None
    said = visit["sum"]
    assert (said["status"], said["name"], said["person_id"]) == ("match", "Ann", ann.id)
    together = like / np.sqrt(alike + own**2 / 3)
    assert said["similarity"] == pytest.approx((together + like) / 2, abs=1e-3)
    assert said["threshold"] == limits.known.value


def test_who_was_said_to_be_somebody_else_is_not_offered(
    service: Service, client: httpx.Client
) -> None:
    ann = service.gallery.enroll("Ann", row_of(1)[None])
    first = came(service, "a", 1, row_of(1), ann)
    client.post(f"/v1/people/{ann.id}/not-this", json={"sightings": [first]})
    stranger = service.store.residents.get(client.get(f"/v1/sightings/{first}").json()["person_id"])
    came(service, "b", 2, row_of(1), stranger)
    (visit,) = client.get("/v1/visits").json()["visits"]
    assert visit["kind"] == "stranger" and len(visit["sightings"]) == 2
    assert visit["sum"]["name"] is None


def test_a_no_is_remembered_of_strangers_and_of_nobody(
    service: Service, client: httpx.Client
) -> None:
    ann = service.gallery.enroll("Ann", row_of(1)[None])
    stranger = service.gallery.add_stranger(near128(row_of(1), 5, 0.3))
    here = came(service, "a", 1, near128(row_of(1), 5, 0.3), stranger)
    nobody = [came(service, c, n, near128(row_of(1), 7, 0.3)) for n, c in enumerate("ab", 30)]
    path = f"/v1/people/{ann.id}/not-this"

    def alike() -> dict:
        (found,) = client.get(f"/v1/people/{stranger.id}").json()["resembles"]
        return found

    assert alike()["near"] and not alike()["different"]
    change = client.post(path, json={"person": stranger.id}).json()["changes"][0]
    assert (change["action"], change["count"]) == ("different", 0)
    assert alike()["different"]
    assert client.post(path, json={"person": stranger.id}).json()["changes"] == []
    assert client.patch(f"/v1/people/{stranger.id}", json={"name": "Ann"}).status_code == 409
    client.post(f"/v1/history/{change['id']}/undo")
    assert not alike()["different"]

    (change,) = client.post(path, json={"sightings": nobody}).json()["changes"]
    assert (change["action"], change["count"]) == ("not_this", 2)
    for body, status in (
        ({}, 400),
        ({"person": None}, 400),
        ({"person": "7"}, 400),
        ({"person": ann.id}, 400),
        ({"person": 999}, 404),
        ({"person": stranger.id, "sightings": nobody}, 400),
        ({"sightings": [999]}, 404),
        ({"sightings": [here]}, 409),  # of the stranger: say that they differ
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == status, (body, answer.text)


def test_known_people_need_no_sum(service: Service, client: httpx.Client) -> None:
    ann = service.gallery.enroll("Ann", row_of(1)[None])
    for number, camera in enumerate("ab", 1):
        came(service, camera, number, row_of(number + 30), ann)
    (visit,) = client.get("/v1/visits").json()["visits"]
    assert (visit["name"], visit["sum"], visit["cameras"]) == ("Ann", None, ["a", "b"])
