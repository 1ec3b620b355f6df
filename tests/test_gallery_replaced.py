"""Another file takes the place of an open gallery, or none does."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from gallery_faces import MODEL, SIZE, faces, names

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.gallery.index import mirror

pytest_plugins = ("gallery_places",)


def make(path: Path, *people: str, model: str = MODEL) -> Path:
    with Gallery.open(path, model=model, size=SIZE) as gallery:
        for person in people:
            gallery.enroll(person, faces(sum(map(ord, person))))
    return path


def face_of(person: str):
    return faces(sum(map(ord, person)))[0]


def test_a_restored_backup_answers_at_once(path: Path, folder: Path) -> None:
    make(path, "Alice")
    shutil.copy(path, folder / "backup")
    with Gallery.open(path) as gallery:
        gallery.enroll("Bob", faces(2))
        (folder / "backup").replace(path)
        assert names(gallery) == ["Alice"]
        assert [m.name for m in gallery.search(faces(2)[0])] == ["Alice"]
        assert gallery.count() == 1
        gallery.enroll("Carol", faces(3))
    with Gallery.open(path) as gallery:
        assert names(gallery) == ["Alice", "Carol"]


def test_another_gallery_of_the_model_takes_over(path: Path, folder: Path) -> None:
    make(path, "Alice", "Bob")
    other = make(folder / "other", "Dora", "Emil", "Fred")
    with Gallery.open(path) as gallery:
        assert len(gallery.search(face_of("Bob"))) == 2
        other.replace(path)
        assert {m.name for m in gallery.search(face_of("Bob"))} == {"Dora", "Emil", "Fred"}
        assert gallery.search(face_of("Emil"))[0].name == "Emil"


def test_a_large_gallery_takes_over_from_one_that_is_being_indexed(
    path: Path, folder: Path, monkeypatch
) -> None:
    monkeypatch.setattr(mirror, "EXACT_LIMIT", 300)
    make(path, "Alice")
    other = make(folder / "other", "Dora")
    with Gallery.open(path) as gallery:
        gallery.enroll("Crowd", faces(1, 2000))
        other.replace(path)
        assert [m.name for m in gallery.search(face_of("Dora"))] == ["Dora"]
        gallery.settle()
        assert [m.name for m in gallery.search(face_of("Dora"))] == ["Dora"]
        assert len(gallery) == 1


def test_a_gallery_of_another_model_is_refused_for_good(path: Path, folder: Path) -> None:
    make(path, "Alice")
    other = make(folder / "other", "Dora", model="another")
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        other.replace(path)
        with pytest.raises(GalleryError, match="was made with model another"):
            gallery.search(face_of("Alice"))
        with pytest.raises(GalleryError, match="open it again"):
            gallery.search(face_of("Alice"))


def test_nothing_is_written_to_a_deleted_file(path: Path) -> None:
    make(path, "Alice")
    with Gallery.open(path) as gallery:
        path.unlink()
        with pytest.raises(GalleryError, match="deleted or moved away"):
            gallery.enroll("Bob", faces(2))
        assert not path.exists()
        make(path, "Dora")
        assert names(gallery) == ["Dora"]


def test_a_log_that_another_program_has_set_is_taken_back(path: Path, folder: Path) -> None:
    make(path, "Alice", "Bob")
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    connection.close()
    with Gallery.open(path) as one, Gallery.open(path) as other:
        time.sleep(0.1)
        one.search(face_of("Bob"))
        other.enroll("New", faces(5))
        assert one.search(faces(5)[0])[0].name == "New"
        other.forget("Alice")
        mark = face_of("Alice").tobytes()
        assert [p.name for p in folder.iterdir() if mark in p.read_bytes()] == []
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_log_that_another_program_holds_is_said(path: Path, folder: Path, caplog, monkeypatch):
    make(path, "Alice", "Bob")
    monkeypatch.setattr("edgeface.gallery.storage.sqlite.BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(path)
    holder.execute("PRAGMA journal_mode=WAL")
    holder.execute("SELECT count(*) FROM person").fetchall()
    with Gallery.open(path) as one, Gallery.open(path) as other:
        assert "write-ahead log" in caplog.text
        other.enroll("New", faces(5))
        end = time.monotonic() + 3.0
        while one.search(faces(5)[0])[0].name != "New" and time.monotonic() < end:
            time.sleep(0.05)
        assert one.search(faces(5)[0])[0].name == "New"
    holder.close()
