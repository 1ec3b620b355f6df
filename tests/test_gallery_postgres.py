"""What only a gallery on a server can meet: restarts, lost connections, other machines."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from gallery_faces import MODEL, SIZE, faces, names

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.gallery.storage.postgres import Vectors

pytest.importorskip("psycopg")
pytest_plugins = ("gallery_places",)


@pytest.fixture
def shared_gallery(server: str):
    with Gallery.open(server, model=MODEL, size=SIZE) as opened:
        yield opened


def restart(postgres: Any) -> None:
    """Stop the server the hard way and start it again, as after a crash."""
    from pgserver._commands import pg_ctl

    pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=postgres.pgdata, user=postgres.system_user)
    postgres.ensure_postgres_running()


def test_a_restart_loses_nothing_and_the_client_recovers(
    postgres: Any, shared_gallery: Gallery
) -> None:
    acknowledged: list[str] = []
    found: list[str] = []
    broken: list[str] = []
    stop = threading.Event()

    def enrol() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                shared_gallery.enroll(f"p{number}", faces(number))
                acknowledged.append(f"p{number}")
            except GalleryError as error:
                broken.append(str(error))

    shared_gallery.enroll("Ann", faces(9999))
    worker = threading.Thread(target=enrol)
    worker.start()
    time.sleep(0.5)
    restart(postgres)
    found.append(shared_gallery.search(faces(9999)[0])[0].name)
    before = len(acknowledged)
    deadline = time.monotonic() + 30.0
    while len(acknowledged) < before + 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    worker.join()
    assert found == ["Ann"]
    assert len(acknowledged) >= before + 5, "enrolment goes on after the restart"
    assert set(acknowledged) | {"Ann"} == set(names(shared_gallery))
    assert len(broken) <= 1
    assert all("nothing was changed" in message for message in broken)


def test_two_machines_share_people(server: str, shared_gallery: Gallery) -> None:
    with Gallery.open(server, model=MODEL, size=SIZE) as other:
        shared_gallery.enroll("Ann", faces(1))
        assert other.search(faces(1)[0])[0].name == "Ann"
        other.rename("Ann", "Bea")
        assert shared_gallery.search(faces(1)[0])[0].name == "Bea"
        with pytest.raises(GalleryError, match="was made with model"):
            Gallery.open(server, model="other", size=SIZE)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(GalleryError, match="cannot be reached") as caught:
        Gallery.open("postgresql://ann:secret@127.0.0.1:1/none", model=MODEL, size=SIZE)
    assert "secret" not in str(caught.value)


def test_an_empty_server_is_no_gallery(server: str) -> None:
    with pytest.raises(GalleryError, match="holds no gallery"):
        Gallery.open(server)


def test_a_server_gallery_is_not_encrypted_here(server: str) -> None:
    with pytest.raises(GalleryError, match="cannot be encrypted"):
        Gallery.open(server, model=MODEL, size=SIZE, key=bytes(32))


def test_embeddings_survive_the_text_of_pgvector() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 64)).astype("<f4") * np.float32(1e-3)
    for row in rows:
        text = Vectors().seal(row.tobytes(), "sample.embedding")
        assert Vectors().unseal(text, "sample.embedding") == row.tobytes()
