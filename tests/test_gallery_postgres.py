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


def test_a_commit_whose_answer_is_lost_is_found_out(server: str, shared_gallery: Gallery) -> None:
    """The connection breaks while the server is still committing, or right after."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION edgeface.slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN PERFORM pg_sleep(1.0); RETURN NULL; END$$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON edgeface.person "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION edgeface.slow()"
        )
    cut = threading.Timer(0.5, lambda: [w._cut(c) for w, c in watched(shared_gallery)])
    cut.start()
    shared_gallery.enroll("Slow", faces(1))
    cut.join()
    assert names(shared_gallery) == ["Slow"], "acknowledged, and made"


def watched(gallery: Gallery) -> list[tuple[Any, Any]]:
    watchdog = gallery._db._watchdog
    return [(watchdog, connection) for _, connection in list(watchdog._due.values())]


def test_what_cannot_be_found_out_is_said(shared_gallery: Gallery, monkeypatch) -> None:
    database = shared_gallery._db
    monkeypatch.setattr("edgeface.gallery.storage.postgres.RECOVER_SECONDS", 0.3)
    executor = type(database)._executor

    def deaf(self, connection):
        execute = executor(self, connection)

        def cut_at_commit(sql, *args, **options):
            if sql == "COMMIT":
                monkeypatch.setattr(database, "_url", "postgresql://127.0.0.1:1/none")
                connection.close()
                raise self._psycopg.OperationalError("server closed the connection")
            return execute(sql, *args, **options)

        return cut_at_commit

    monkeypatch.setattr(type(database), "_executor", deaf)
    with pytest.raises(GalleryError, match=r"was made is unknown.*look at the gallery"):
        shared_gallery.enroll("Ann", faces(1))


def test_a_server_that_says_nothing_is_given_up(shared_gallery: Gallery, monkeypatch) -> None:
    monkeypatch.setattr("edgeface.gallery.storage.watchdog.ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("edgeface.gallery.storage.postgres.RECOVER_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(GalleryError, match="cannot be reached"), shared_gallery._read() as tables:
        tables.execute("SELECT pg_sleep(30)")
    assert time.monotonic() - start < 10.0
    assert names(shared_gallery) == []


def test_a_forget_does_not_keep_others_from_searching(server: str, shared_gallery: Gallery) -> None:
    import psycopg

    shared_gallery.enroll("Ann", faces(1))
    shared_gallery.enroll("Bea", faces(2, 50))
    with psycopg.connect(server) as reader:
        # A search that is going on holds this lock; a full rewrite would wait for it, and all
        # later searches for the rewrite.
        reader.execute("SELECT count(*) FROM edgeface.sample")
        start = time.monotonic()
        shared_gallery.forget("Bea")
        assert time.monotonic() - start < 10.0
        assert shared_gallery.search(faces(1)[0])[0].name == "Ann"


def test_a_role_that_may_read_opens_and_searches(server: str, shared_gallery: Gallery) -> None:
    import psycopg

    shared_gallery.enroll("Ann", faces(1))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("GRANT USAGE ON SCHEMA edgeface TO reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA edgeface TO reader")
    with Gallery.open(server.replace("postgres:@", "reader:@"), model=MODEL, size=SIZE) as reading:
        assert reading.search(faces(1)[0])[0].name == "Ann"
        assert reading.count() == 1
        with pytest.raises(GalleryError, match="permission denied"):
            reading.enroll("Bea", faces(2))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP OWNED BY reader")
        connection.execute("DROP ROLE reader")


def test_rows_of_another_length_name_nobody_on_a_server(
    server: str, shared_gallery: Gallery
) -> None:
    import psycopg

    shared_gallery.enroll("Ann", faces(1))
    shared_gallery.enroll("Bea", faces(2))
    with psycopg.connect(server, autocommit=True) as connection:
        wrong = "[" + ",".join(["1e15"] * SIZE) + "]"
        connection.execute(
            "UPDATE edgeface.sample SET embedding = %s::vector WHERE id = 1", (wrong,)
        )
    for probe in faces(9, 5):
        assert [m.name for m in shared_gallery.search(probe)] == ["Bea"]
