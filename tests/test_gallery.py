"""The gallery: what it keeps, what it refuses, and what it answers."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gallery_faces import MEMORY, MODEL, SIZE, faces, names
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery, Kind, Provenance
from edgeface.gallery.records import check_name
from edgeface.gallery.storage import sqlite
from edgeface.gallery.storage.database import MIGRATIONS
from edgeface.gallery.storage.sqlite import SqliteDatabase
from edgeface.gallery.storage.tables import Tables
from edgeface.types import Threshold

pytest_plugins = ("gallery_places",)


def test_enrolled_people_are_found_again_after_reopening(path: Path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        alice = gallery.enroll("Alice", faces(1, 3), qualities=[0.9, None, 0.5], sources=["a"] * 3)
        gallery.enroll("Bob", faces(2)[0], external_id="b-7", metadata={"room": 4})
    with Gallery.open(path, model=MODEL, size=SIZE, create=False) as gallery:
        assert names(gallery) == ["Alice", "Bob"]
        assert len(gallery) == 4
        bob = gallery.person("Bob")
        assert (bob.external_id, bob.metadata, bob.n_samples) == ("b-7", {"room": 4}, 1)
        match = gallery.search(faces(1, 3)[2], k=2)[0]
        assert (match.person_id, match.name) == (alice.id, "Alice")
        assert match.similarity == pytest.approx(1.0, abs=1e-6)
        kept = gallery.samples("Alice")
        np.testing.assert_array_equal(np.stack([s.embedding for s in kept]), faces(1, 3))
        assert [s.quality for s in kept] == [0.9, None, 0.5]
        assert {s.provenance for s in kept} == {Provenance.USER}


def test_the_file_stands_alone_while_open(path: Path, local: Gallery, folder: Path) -> None:
    local.enroll("Alice", faces(1))
    assert [p.name for p in folder.iterdir()] == [path.name]
    copy = folder / "copy.gallery"
    copy.write_bytes(path.read_bytes())
    with Gallery.open(copy) as other:
        assert names(other) == ["Alice"]


def test_search_gives_each_person_once_best_first(gallery: Gallery) -> None:
    probe = faces(0)[0]
    near = [probe + 0.01 * i * faces(i)[0] for i in range(1, 30)]
    gallery.enroll("Crowd", near)
    gallery.enroll("Second", faces(50))
    gallery.enroll("Third", faces(51))
    found = gallery.search(probe, k=3)
    assert len(found) == len({m.person_id for m in found}) == 3
    assert found[0].name == "Crowd"
    similarities = [m.similarity for m in found]
    assert similarities == sorted(similarities, reverse=True)
    rows = np.stack([e / np.linalg.norm(e) for e in near])
    assert found[0].similarity == pytest.approx(float((rows @ probe).max()), abs=1e-6)


def test_search_of_an_empty_gallery_and_of_nothing(gallery: Gallery) -> None:
    assert gallery.search(faces(1)[0]) == []
    assert gallery.search_many(np.empty((0, SIZE), np.float32)) == []
    gallery.enroll("Alice", faces(1))
    assert len(gallery.search(faces(1)[0], k=10)) == 1


def test_search_many_is_search_of_each(gallery: Gallery) -> None:
    for i in range(7):
        gallery.enroll(f"p{i}", faces(i, 2))
    probes = faces(99, 5)
    for probe, found in zip(probes, gallery.search_many(probes, k=4), strict=True):
        alone = gallery.search(probe, k=4)
        assert [m.person_id for m in alone] == [m.person_id for m in found]
        np.testing.assert_allclose(
            [m.similarity for m in alone], [m.similarity for m in found], atol=1e-6
        )


def test_rename_merge_and_undo_keep_ids(gallery: Gallery) -> None:
    one = gallery.enroll("Ann", faces(1))
    two = gallery.enroll("Anne", faces(2, 2), external_id="x", metadata={"a": 1})
    assert gallery.rename("Ann", "Anna").id == one.id
    assert gallery.search(faces(1)[0])[0].name == "Anna"
    merged = gallery.merge("Anna", "Anne")
    assert (merged.id, merged.n_samples) == (one.id, 3)
    assert gallery.search(faces(2, 2)[1])[0].person_id == one.id
    assert gallery.undo().action == "merge"
    assert gallery.person("Anne") == two
    assert gallery.search(faces(2, 2)[1])[0].name == "Anne"
    assert gallery.undo().action == "rename"
    assert names(gallery) == ["Ann", "Anne"]
    assert gallery.undo().action == "enroll"
    assert names(gallery) == ["Ann"]
    assert [e.undone for e in gallery.history()] == [True, True, True, False]


def test_a_change_cannot_be_undone_twice_or_onto_a_taken_name(gallery: Gallery) -> None:
    gallery.enroll("Ann", faces(1))
    gallery.rename("Ann", "Bea")
    renamed = gallery.history(1)[0].id
    gallery.enroll("Ann", faces(2))
    with pytest.raises(GalleryError, match="somebody else is called 'Ann'"):
        gallery.undo(renamed)
    gallery.rename("Ann", "Cleo")
    gallery.undo(renamed)
    with pytest.raises(GalleryError, match="already been undone"):
        gallery.undo(renamed)


def test_undo_with_no_history(gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match="nothing to undo"):
        gallery.undo()


def test_forget_leaves_no_trace_on_the_disk(path: Path, local: Gallery) -> None:
    secret = faces(7, 3)
    local.enroll("Alice", faces(1, 40))
    local.enroll(
        "Mallory", secret, sources=["mallory-passport.jpg"] * 3, crops=[b"CROP-OF-MALLORY" * 99] * 3
    )
    local.rename("Mallory", "Malory")
    local.enroll("Mel", faces(8))
    local.merge("Malory", "Mel")
    marks = [b"Mallory", b"Malory", b"Mel", b"mallory-passport", b"CROP-OF-MALLORY"]
    marks += [row.tobytes() for row in secret] + [row.tobytes()[40:80] for row in secret]
    before = path.read_bytes()
    assert all(mark in before for mark in marks)
    local.forget("Malory")
    files = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert not [mark for mark in marks if mark in files]
    assert b"Alice" in files
    assert names(local) == ["Alice"]
    assert {m.name for m in local.search(secret[0])} == {"Alice"}
    assert [e.action for e in local.history()] == ["enroll"]


def test_a_forget_cut_short_is_finished_at_the_next_opening(path: Path, monkeypatch) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Mallory", faces(7, 9), crops=[b"CROP-OF-MALLORY" * 99] * 9)
        with monkeypatch.context() as patch:
            patch.setattr(gallery, "_scrub", lambda: None)
            gallery.forget("Mallory")
    pages = path.stat().st_size
    with Gallery.open(path) as gallery:
        assert names(gallery) == []
    assert path.stat().st_size < pages


def test_ids_never_return(gallery: Gallery) -> None:
    first = gallery.enroll("Ann", faces(1))
    gallery.forget("Ann")
    assert gallery.enroll("Ann", faces(1)).id > first.id


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "x" * 10_000, "a\nb", "a\x00b", "a\u202eb"])
def test_bad_names_are_refused(gallery: Gallery, name: str) -> None:
    with pytest.raises(GalleryError, match="name") as caught:
        gallery.enroll(name, faces(1))
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    assert names(gallery) == []


@pytest.mark.parametrize(
    "name", ["Zoë", "李小龍", "نور‌الدین", "Ωμέγα", "अनन्या", "O'Brien; DROP", "🙂"]
)
def test_names_of_any_script_are_kept(gallery: Gallery, name: str) -> None:
    gallery.enroll(name, faces(1))
    assert gallery.search(faces(1)[0])[0].name == name


def test_one_spelling_is_one_person(gallery: Gallery) -> None:
    composed = gallery.enroll("Zo\u00eb", faces(1))
    assert gallery.enroll(" Zoe\u0308 ", faces(2)).id == composed.id


def test_stranger_names_are_reserved(gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match="kept for people the gallery finds"):
        gallery.enroll("Stranger-7", faces(1))


@settings(deadline=None)
@given(st.text(max_size=300))
def test_check_name_gives_a_stable_name_or_refuses(text: str) -> None:
    try:
        name = check_name(text)
    except GalleryError:
        return
    assert name == check_name(name)
    assert 0 < len(name) <= 200


def test_an_unknown_person_brings_the_closest_names(gallery: Gallery) -> None:
    gallery.enroll("Alice", faces(1))
    with pytest.raises(GalleryError, match=r"nobody is called 'Alise'.*did you mean 'Alice'"):
        gallery.forget("Alise")
    with pytest.raises(GalleryError, match="gallery list"):
        gallery.person("Zacharias")


def test_rename_onto_somebody_is_refused(gallery: Gallery) -> None:
    gallery.enroll("Ann", faces(1))
    gallery.enroll("Bea", faces(2))
    with pytest.raises(GalleryError, match="merge 'Ann' into 'Bea'"):
        gallery.rename("Ann", "Bea")
    with pytest.raises(GalleryError, match="into themselves"):
        gallery.merge("Ann", "Ann")
    assert names(gallery) == ["Ann", "Bea"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((0, SIZE)), "no embeddings"),
        (np.zeros((1, SIZE)), "zeros"),
        (np.full((1, SIZE), np.nan), "finite"),
        (np.ones((1, SIZE + 1)), "do not fit"),
        (np.ones((1, 1, SIZE)), "do not fit"),
    ],
)
def test_bad_embeddings_are_refused(gallery: Gallery, rows: np.ndarray, message: str) -> None:
    with pytest.raises(GalleryError, match=message):
        gallery.enroll("Ann", rows)
    assert names(gallery) == []


def test_nothing_is_half_written(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="shorter"):
        gallery.enroll("Ann", faces(1, 2), sources=["only one"])
    assert names(gallery) == []
    assert gallery.history() == []


def test_another_model_is_refused(path: Path, local: Gallery) -> None:
    with pytest.raises(GalleryError, match=f"{MODEL}.*other.*enrol everybody again"):
        Gallery.open(path, model="other", size=SIZE)
    with pytest.raises(GalleryError, match=f"size {SIZE}.*gives 7"):
        Gallery.open(path, model=MODEL, size=7)


def test_paths_that_are_no_gallery(folder: Path) -> None:
    text = folder / "notes.txt"
    text.write_text("these are not the rows you are looking for" * 100)
    short = folder / "short"
    short.write_bytes(b"SQLite format 3\0")
    foreign = folder / "foreign.db"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE t (a)")
    database.close()
    for bad, message in [
        (folder, "is a directory"),
        (text, "not a gallery"),
        (short, "not a gallery|damaged"),
        (foreign, "another program"),
        (folder / "no" / "folder.gallery", "make it first"),
    ]:
        content = bad.read_bytes() if bad.is_file() else None
        with pytest.raises(GalleryError, match=message) as caught:
            Gallery.open(bad, model=MODEL, size=SIZE)
        assert "\n" not in str(caught.value)
        assert content is None or bad.read_bytes() == content
    with pytest.raises(GalleryError, match="does not exist"):
        Gallery.open(folder / "absent", model=MODEL, size=SIZE, create=False)
    with pytest.raises(GalleryError, match="does not exist"):
        Gallery.open(folder / "absent")
    assert not (folder / "absent").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95])
def test_a_truncated_gallery_is_refused(path: Path, share: float) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Ann", faces(1, 400))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(GalleryError, match=r"restore a backup|not a gallery"):
        Gallery.open(path, model=MODEL, size=SIZE, create=False)


def test_a_newer_schema_is_refused(path: Path, local: Gallery) -> None:
    local.close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(GalleryError, match="update edgeface"):
        Gallery.open(path)


def test_an_older_gallery_is_brought_up_to_date(path: Path, local: Gallery, monkeypatch) -> None:
    local.enroll("Ann", faces(1))
    local.close()
    newer = (*MIGRATIONS, "ALTER TABLE person ADD COLUMN shoe_size REAL;")
    monkeypatch.setattr("edgeface.gallery.storage.sqlite.MIGRATIONS", newer)
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        assert gallery.search(faces(1)[0])[0].name == "Ann"
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT name, shoe_size FROM person").fetchall() == [("Ann", None)]
        assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    database.close()


def test_a_migration_that_fails_changes_nothing(path: Path, local: Gallery, monkeypatch) -> None:
    local.enroll("Ann", faces(1))
    local.close()
    before = path.read_bytes()
    broken = (*MIGRATIONS, "CREATE TABLE half (a); CREATE TABLE person (a);")
    with monkeypatch.context() as patch, pytest.raises(GalleryError):
        patch.setattr("edgeface.gallery.storage.sqlite.MIGRATIONS", broken)
        Gallery.open(path, model=MODEL, size=SIZE)
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        assert names(gallery) == ["Ann"]
    with sqlite3.connect(path) as database:
        tables = database.execute("SELECT name FROM sqlite_master").fetchall()
    database.close()
    assert ("half",) not in tables
    assert len(path.read_bytes()) == len(before)


def test_a_fork_is_told_to_open_its_own(local: Gallery, monkeypatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(GalleryError, match="before this process was forked"):
        local.search(faces(1)[0])
    monkeypatch.undo()
    assert local.search(faces(1)[0]) == []


def test_a_closed_gallery_says_so(gallery: Gallery) -> None:
    gallery.close()
    with pytest.raises(GalleryError, match="has been closed"):
        gallery.search(faces(1)[0])
    with pytest.raises(GalleryError, match="has been closed"):
        gallery.people()


def test_the_threshold_is_stored(path: Path, local: Gallery) -> None:
    assert local.threshold is None
    local.threshold = Threshold(0.375, "calibrated:fpir=1e-3@N=512")
    with Gallery.open(path) as other:
        assert other.threshold == local.threshold


def test_another_opening_sees_every_change(path: Path, local: Gallery) -> None:
    with Gallery.open(path) as other:
        local.enroll("Ann", faces(1))
        assert other.search(faces(1)[0])[0].name == "Ann"
        local.rename("Ann", "Bea")
        assert other.search(faces(1)[0])[0].name == "Bea"
        local.enroll("Cleo", faces(2))
        local.merge("Cleo", "Bea")
        assert other.search(faces(1)[0])[0].name == "Cleo"
        local.forget("Cleo")
        assert other.search(faces(1)[0]) == []


def hold(path: Path, seconds: float) -> threading.Thread:
    """Keep everybody else from reading `path` for a while; returns once it is held."""
    held = threading.Event()

    def keep() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        held.set()
        time.sleep(seconds)
        connection.execute("COMMIT")
        connection.close()

    thread = threading.Thread(target=keep)
    thread.start()
    held.wait()
    return thread


@pytest.mark.parametrize("waits", range(1, 4))
def test_every_connection_of_an_opening_waits(path: Path, waits: int, monkeypatch) -> None:
    Gallery.open(path, model=MODEL, size=SIZE).close()
    connect, holders = SqliteDatabase._connect, []

    def interrupted(self: SqliteDatabase) -> sqlite3.Connection:
        if len(self._connections) == waits - 1:
            holders.append(hold(path, 0.2))
        return connect(self)

    monkeypatch.setattr(SqliteDatabase, "_connect", interrupted)
    Gallery.open(path).close()
    assert len(holders) == 1
    holders[0].join()


def test_a_lock_that_stays_is_told_with_the_wait(path: Path, monkeypatch) -> None:
    Gallery.open(path, model=MODEL, size=SIZE).close()
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    holder = hold(path, 1.0)
    with pytest.raises(GalleryError, match=r"locked by another process, waited 0\.\d s"):
        Gallery.open(path)
    holder.join()


def test_a_change_after_a_quiet_while_is_seen_at_once(path: Path, local: Gallery) -> None:
    local.enroll("Alice", faces(1))
    with Gallery.open(path) as other:
        for n in range(2, 5):
            time.sleep(1.5 * sqlite.SETTLED_NS / 1e9)
            assert len(local.search(faces(1)[0])) == n - 1
            other.enroll(f"person {n}", faces(n))
            assert len(local.search(faces(1)[0])) == n


def test_compaction_keeps_other_openings_right(path: Path, local: Gallery) -> None:
    with Gallery.open(path) as other:
        local.enroll("Ann", faces(1, 200))
        local.enroll("Bea", faces(2, 2))
        assert len(other) == 202
        local.undo()
        local.enroll("Cleo", faces(3, 2))
        size = path.stat().st_size
        local.forget("Ann")
        local.compact()
        assert path.stat().st_size < size
        assert len(other) == len(local) == 2
        assert [m.name for m in other.search(faces(3, 2)[1])] == ["Cleo"]


def test_threads_share_a_gallery(gallery: Gallery) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(5):
                name = f"p{number}-{i}"
                gallery.enroll(name, faces(100 * number + i))
                assert gallery.search(faces(100 * number + i)[0])[0].name == name
            gallery.forget(f"p{number}-0")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(gallery) == 16


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("eemrfu"), st.integers(0, 5), st.integers(0, 5))))
def test_the_index_is_what_the_rows_say(steps: list[tuple[str, int, int]]) -> None:
    """After any changes a gallery answers as one opened anew does."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name,
        Gallery.open(Path(name) / "g", model=MODEL, size=SIZE) as gallery,
    ):
        for number, (step, a, b) in enumerate(steps):
            try:
                if step == "e":
                    gallery.enroll(f"p{a}", faces(1000 + number, b + 1))
                elif step == "m":
                    gallery.merge(f"p{a}", f"p{b}")
                elif step == "r":
                    gallery.rename(f"p{a}", f"p{b}")
                elif step == "f":
                    gallery.forget(f"p{a}")
                else:
                    gallery.undo()
            except GalleryError:
                continue
        with Gallery.open(Path(name) / "g") as fresh:
            probes = faces(5, 8)
            assert len(fresh) == len(gallery) == sum(p.n_samples for p in fresh.people())
            for one, other in zip(
                gallery.search_many(probes, 3), fresh.search_many(probes, 3), strict=True
            ):
                assert [(m.person_id, m.name) for m in one] == [
                    (m.person_id, m.name) for m in other
                ]


def test_people_are_counted_by_kind_whoever_changes_them(
    place: Path | str, gallery: Gallery
) -> None:
    def counts(of: Gallery) -> tuple[int, int, int]:
        return of.count(), of.count("known"), of.count(Kind.STRANGER)

    with Gallery.open(place) as other:
        assert counts(gallery) == counts(other) == (0, 0, 0)
        gallery.enroll("Ann", faces(1, 3))
        other.add_stranger(faces(2)[0])
        assert counts(gallery) == counts(other) == (2, 1, 1)
        other.rename("stranger-1", "Bea")
        assert counts(gallery) == counts(other) == (2, 2, 0)
        gallery.merge("Ann", "Bea")
        assert counts(gallery) == counts(other) == (1, 1, 0)
        other.undo()
        gallery.forget("Ann")
        assert counts(gallery) == counts(other) == (1, 1, 0)
        with pytest.raises(ValueError, match="nobody"):
            gallery.count("nobody")


def test_notes_and_thresholds_of_others_are_seen(place: Path | str, gallery: Gallery) -> None:
    with Gallery.open(place) as other:
        assert (gallery.note("x"), gallery.threshold) == (None, None)
        other.write_note("x", "text")
        other.threshold = Threshold(0.25, "user")
        assert (gallery.note("x"), gallery.threshold) == ("text", Threshold(0.25, "user"))


def test_counting_does_not_list(gallery: Gallery, monkeypatch) -> None:
    for i in range(50):
        gallery.enroll(f"p{i}", faces(i))
    assert gallery.count() == 50
    monkeypatch.setattr(Tables, "people", None)
    monkeypatch.setattr(Tables, "count_people", None)
    assert gallery.count("known") == 50, "nothing is read while nothing has changed"


def test_a_change_behind_an_old_time_of_the_file_is_seen_within_a_second(
    path: Path, local: Gallery
) -> None:
    """As when the clock is set back, or the file system keeps times by the second."""
    local.enroll("Ann", faces(1))
    os.utime(path, (1e9, 1e9))
    assert local.count() == 1
    with Gallery.open(path) as other:
        other.enroll("Bea", faces(2))
        os.utime(path, (1e9, 1e9))
        end = time.monotonic() + 5.0
        while local.count() == 1 and time.monotonic() < end:
            time.sleep(0.05)
        assert local.search(faces(2)[0])[0].name == "Bea"
        assert time.monotonic() < end - 5.0 + 1.5 * sqlite.TRUSTED_SECONDS


def test_kinds_of_people(gallery: Gallery) -> None:
    assert gallery.enroll("Ann", faces(1)).kind is Kind.KNOWN
