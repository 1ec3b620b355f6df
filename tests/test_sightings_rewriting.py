"""What is erased leaves no byte, and nobody who writes waits for it."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sightings import NOW, D, bytes_of, event, unit

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.sightings import Expiry, Sightings, binding
from edgeface.sightings.rewriting import Rewriting

SECRET = b"picture of the forgotten"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Sightings]:
    with (
        Gallery.open(tmp_path / "g.gallery", model="m", size=D) as gallery,
        Sightings.open(gallery) as made,
    ):
        yield made


def fill(store: Sightings, count: int) -> int:
    """Appearances in turn of Ann Ash and nobody, with pictures of some pages; Ann's id."""
    ann = store.gallery.enroll("Ann Ash", [unit(1)])
    with store.file.write() as execute:
        for n in range(1, count + 1):
            who = ann.id if n % 2 else None
            said = "Ann Ash" if who else "nobody"
            execute(
                "INSERT INTO appearance (run, track, camera, first, last, person, status, "
                "threshold, origin, template, weight, faces, ended) "
                "VALUES ('r', ?, 'door', ?, ?, ?, 'unknown', 0.4, 'card', ?, 1, 1, 1)",
                (n, n, n, who, unit(3 if who else 4).tobytes()),
            )
            picture = (SECRET if who else b"picture of nobody") * (40 + n % 300)
            execute("INSERT INTO crop VALUES (?, ?, 0.5, ?)", (n, picture, n))
            execute(
                "INSERT INTO event (id, at, appearance, person, body) VALUES (?, ?, ?, ?, ?)",
                (f"e{n:05}", n, n, who, json.dumps(said * (1 + n % 60)).encode()),
            )
    return ann.id


def traces(folder: Path) -> int:
    left = bytes_of(folder)
    return sum(left.count(trace) for trace in (SECRET, b"Ann Ash", unit(3).tobytes()))


def whole(store: Sightings) -> None:
    """The file is sound and has the tables, indexes and references it began with."""
    with store.file.read() as execute:
        assert execute("PRAGMA integrity_check") == [("ok",)]
        assert execute("PRAGMA foreign_key_check") == []
        made = dict(execute("SELECT name, type FROM sqlite_master"))
        assert "trigger" not in made.values() and not [
            n for n in made if n.endswith(("_new", "_old"))
        ]
        assert len([n for n in made if n.startswith("appearance_")]) == 4
        parents = {
            row[2] for t in ("crop", "moved") for row in execute(f"PRAGMA foreign_key_list({t})")
        }
        assert parents == {"appearance", "change"}
        assert execute("SELECT value FROM about WHERE key = 'scrub'") == [("done",)]


def test_rows_that_were_moved_about_leave_no_copy(store: Sightings, tmp_path: Path) -> None:
    ann = fill(store, 600)
    kept = store.rows(kind="unknown", limit=1000).rows
    # Deleting every third of nobody's rows balances pages and leaves copies of Ann's.
    some = [row.id for row in kept[::3]]
    with store.file.write() as execute:
        execute("DELETE FROM appearance WHERE id IN ({among})", (str(some),))
    assert store.people.forget(ann) == 300
    assert traces(tmp_path) == 0
    left = store.rows(kind="unknown", limit=1000).rows
    assert [row.id for row in left] == [row.id for row in kept if row.id not in some]
    assert all(store.crop(row.id).startswith(b"picture of nobody") for row in left)  # type: ignore[union-attr]
    assert len(store.events(None, 1000)) == 301  # nobody's, and that she was forgotten
    whole(store)


def test_ids_are_not_given_again(store: Sightings) -> None:
    ann = fill(store, 1)
    assert store.people.forget(ann) == 1
    assert store.record(event(2, 2))[0] == 2
    for _ in range(3):  # names of indexes alternate
        store.file.erase()
    store.gallery.enroll("Ben", [unit(2)])
    store.record(event(3, 3, "lost", store.gallery.person("Ben"), unit(2)))
    assert store.people.forget(store.gallery.person("Ben").id) == 1
    assert store.record(event(4, 4))[0] == 4
    whole(store)


def test_writers_go_on_and_what_they_change_is_kept(
    store: Sightings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeface.sightings.rewriting._MOST", 20)
    ann = fill(store, 400)
    ids, waits, numbers = list[int](), list[float](), itertools.count(10_000)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            n = next(numbers)
            begun = time.monotonic()
            made, _ = store.record(event(n, n))
            store.record(event(n + 10**6, n, "lost", None, unit(5)))
            waits.append((time.monotonic() - begun) / 2)
            store.keep_crop(made, b"new", 0.4, NOW)
            ids.append(made)
            time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        store.people.forget(ann)
    finally:
        done.set()
        thread.join()
    assert traces(tmp_path) == 0 and len(ids) > 5
    assert max(waits) < 5  # a loaded machine; rewriting as a whole would count all 400 rows
    rows = store.some(ids)
    assert all(row.template is not None and store.crop(row.id) == b"new" for row in rows)
    whole(store)


def test_what_is_deleted_meanwhile_is_rewritten_again(
    store: Sightings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = fill(store, 100)
    begun, drain = list[int](), Rewriting._drain

    def late(self: Rewriting, table: str) -> None:
        if table == "crop_old" and not begun:
            begun.append(1)
            store.residents.erase([ann])  # all pages of the other tables are written already
        drain(self, table)

    monkeypatch.setattr(Rewriting, "_drain", late)
    monkeypatch.setattr("edgeface.sightings.residents.scrub", lambda rows: None)
    store.gallery.forget("Ann Ash")
    binding.scrub(store.file)
    assert begun and traces(tmp_path) == 0
    whole(store)


KILLED = """
import sys, os
sys.path.insert(0, sys.argv[2])
from edgeface.gallery import Gallery
from edgeface.sightings import Sightings
from edgeface.sightings.rewriting import Rewriting
step, left = Rewriting._step, [int(sys.argv[3])]
def dying(self, begin=None):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    return step(self, begin)
Rewriting._step = dying
with Gallery.open(sys.argv[1]) as gallery, Sightings.open(gallery) as store:
    store.people.forget(gallery.person("Ann Ash").id)
"""


@pytest.mark.parametrize("steps", [5, 12, 17])
def test_who_dies_on_the_way_leaves_it_to_the_next(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.gallery"
    with Gallery.open(path, model="m", size=D) as gallery, Sightings.open(gallery) as store:
        fill(store, 120)
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent), str(steps)]
    assert subprocess.run(command, check=False).returncode == 9
    monkeypatch.setattr("edgeface.sightings.rewriting.ALIVE", 0.0)
    with Gallery.open(path) as gallery, Sightings.open(gallery) as store:
        assert [row.person_id for row in store.rows(limit=200).rows] == [None] * 60
        whole(store)
        assert traces(tmp_path) == 0


def test_one_at_a_time(store: Sightings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeface.sightings.rewriting.PATIENCE", 0.2)
    with store.file.write() as execute:
        execute("INSERT INTO about VALUES ('rewriting', ?)", (f"other {time.time()}",))
    with pytest.raises(GalleryError, match="another process"):
        store.file.erase()
    with store.file.write() as execute:
        execute("UPDATE about SET value = ? WHERE key = 'rewriting'", (f"x {time.time() - 99}",))
    store.file.erase()


def test_a_long_reader_keeps_no_writer_waiting(
    store: Sightings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("edgeface.sightings.file.BUSY_SECONDS", 1.0)
    ann = fill(store, 50)
    reader = sqlite3.connect(tmp_path / "g.gallery.sightings", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM event").fetchall()
    thread = threading.Thread(target=store.people.forget, args=(ann,))
    thread.start()
    numbers = itertools.count(100)
    while thread.is_alive():
        n, begun = next(numbers), time.monotonic()
        store.record(event(n, n))
        assert time.monotonic() - begun < 0.9
        time.sleep(0.01)
    thread.join()
    assert "is in use" in caplog.text
    reader.close()
    store.expire(0.0, Expiry())
    binding.scrub(store.file)
    assert traces(tmp_path) == 0


def test_what_was_sealed_leaves_no_byte_either(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = bytes(range(32))
    with Gallery.open(tmp_path / "g.gallery", model="m", size=D, key=key) as gallery:
        ann, ben = gallery.enroll("Ann Ash", [unit(1)]), gallery.enroll("Ben", [unit(2)])
        with Sightings.open(gallery) as store:
            for n in range(60):
                who = ann if n % 2 else ben
                made, _ = store.record(event(n, n, "lost", who, unit(n)))
                store.keep_crop(made, SECRET * 30, 0.5, NOW)
            sealed = {ann.id: list[bytes](), ben.id: list[bytes]()}
            with store.file.read() as execute:
                for person, *values in execute(
                    "SELECT a.person, a.template, c.jpeg, e.body FROM appearance a "
                    "JOIN crop c ON c.appearance = a.id JOIN event e ON e.appearance = a.id"
                ):
                    sealed[person] += [bytes(value) for value in values]
            store.people.forget(ann.id)
            left = bytes_of(tmp_path)
    # Of a picture on several pages its first bytes.
    assert not [value for value in sealed[ann.id] if value[:64] in left or value[-64:] in left]
    assert all(value[:64] in left for value in sealed[ben.id])
