"""Sightings: written before they are told, named backwards, taken back, erased."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery, Kind
from edgeface.sightings import Expiry, Recorder, Sightings
from edgeface.types import (
    Decision,
    Event,
    EventKind,
    Face,
    Frame,
    Sighting,
    Status,
    Template,
    Threshold,
)

D = 16
NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def unit(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(D).astype(np.float32)
    return row / np.linalg.norm(row)


def near(row: np.ndarray, seed: int, cosine: float) -> np.ndarray:
    other = unit(seed)
    other = other - (other @ row) * row
    return (cosine * row + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)).astype("f4")


def event(
    number: int, track: int, kind: str = "seen", who=None, row=None, at=NOW, camera="door", run="r"
) -> Event:
    status = {None: Status.UNKNOWN, Kind.KNOWN: Status.MATCH, Kind.STRANGER: Status.STRANGER}
    kind_of = None if who is None else who.kind
    decision = Decision(
        status[kind_of], None if who is None else who.name, None if who is None else who.id,
        0.5, 0.2, Threshold(0.4, "card"), kind_of,
    )  # fmt: skip
    template = None if row is None else Template(row, 1.0, 3.0, 4)
    return Event(
        EventKind(kind), track, 1.0, number, np.array([1, 2, 3, 4], np.float32), decision, camera,
        at, (64, 48), f"{run}-{number:08}", run, template,
    )  # fmt: skip


@pytest.fixture
def gallery(tmp_path):
    with Gallery.open(tmp_path / "g.gallery", model="m", size=D) as opened:
        yield opened


@pytest.fixture
def store(gallery):
    with Sightings.open(gallery) as opened:
        yield opened


def test_an_event_is_in_the_log_before_anybody_is_told(store) -> None:
    known = []
    store.listeners.append(lambda told: known.append(store.events()[-1] == told))
    store.listeners.append(lambda told: 1 / 0)  # one that fails harms nobody
    store.record(event(1, 7, row=unit(1)))
    assert known == [True]
    assert store.events(after="r-00000001") == []
    with pytest.raises(GalleryError, match="no event 'r-9'"):
        store.events(after="r-9")


def test_a_track_is_one_row_that_goes_on(store, gallery) -> None:
    ann = gallery.enroll("Ann", [unit(1)])
    store.record(event(1, 7, row=unit(1)))
    store.record(event(2, 7, "identified", ann, unit(2), NOW + timedelta(seconds=2)))
    store.record(event(3, 7, "lost", ann, unit(3), NOW + timedelta(seconds=5)))
    (row,) = store.rows().rows
    assert (row.name, row.kind, row.status) == ("Ann", Kind.KNOWN, "match")
    assert row.last - row.first == timedelta(seconds=5)
    np.testing.assert_array_equal(row.template, unit(3))
    assert json.dumps(row.to_dict())
    assert [e["event"] for e in store.events(limit=2)] == ["seen", "identified"]


def test_a_stranger_gets_a_name_backwards_and_it_is_taken_back_bit_for_bit(store, gallery) -> None:
    face = unit(5)
    stranger = gallery.add_stranger(face)
    for number in range(4):
        store.record(event(number, number, "lost", stranger, near(face, number, 0.9)))
    store.record(event(10, 10, "lost", None, near(face, 80, 0.8)))  # resembles, was nobody
    store.record(event(11, 11, "lost", None, near(face, 81, 0.1)))
    before = dump(store)
    change = store.people.name(stranger.id, "Ben")
    assert [r.name for r in store.rows(person=stranger.id).rows] == ["Ben"] * 5
    assert change.count == 1
    assert store.events()[-1]["event"] == "person_renamed"
    assert store.people.undo(change.id).undone
    assert dump(store) == before
    assert {r.name for r in store.rows().rows} == {"stranger-1", None}
    with pytest.raises(GalleryError, match="no change"):
        store.people.undo(change.id)


def dump(store: Sightings) -> list:
    with store.file.read() as execute:
        return execute("SELECT * FROM appearance ORDER BY id")


def test_faces_of_nobody_become_a_person_with_their_pictures(store, gallery) -> None:
    face = unit(6)
    ids = [store.record(event(n, n, "lost", None, near(face, n, 0.95)))[0] for n in range(3)]
    store.keep_crop(ids[0], b"jpeg", 0.5, NOW)
    store.people.name(None, "Cleo", ids[:2])
    assert {r.name for r in store.some(ids)} == {"Cleo"}  # the third resembles them
    assert [s.crop for s in gallery.samples("Cleo")] == [b"jpeg", None]


def test_merge_split_not_this_and_what_other_programs_do(store, gallery) -> None:
    one, two = gallery.add_stranger(unit(1)), gallery.add_stranger(unit(2))
    a, _ = store.record(event(1, 1, "lost", one, unit(1)))
    b, _ = store.record(event(2, 2, "lost", two, unit(2)))
    store.people.name(one.id, "Ann")
    (merge,) = store.people.merge(one.id, [two.id])
    assert [r.id for r in store.rows(person=one.id).rows] == [b, a]
    store.people.undo(merge.id)
    assert store.row(b).name == "stranger-2"
    gallery.merge("Ann", "stranger-2")  # as `edgeface gallery merge` does
    assert store.row(b).name == "Ann"
    change = store.people.not_this(one.id, [b])
    other = store.row(b)
    assert other.name.startswith("stranger-") and other.person_id not in (one.id, two.id)
    assert other.person_id in gallery.different_from(one.id)
    store.people.undo(change.id)
    assert store.row(b).name == "Ann"
    with pytest.raises(GalleryError, match="not of"):
        store.people.split(one.id, [store.record(event(9, 9, "lost", None, unit(9)))[0]])
    split = store.people.split(one.id, [b])
    assert store.row(b).name != "Ann" and store.row(a).name == "Ann"
    assert split.action == store.people.history(1)[0].action == "split"


def test_ignored_people_are_recognised_and_groups_kept(store, gallery) -> None:
    ann = gallery.enroll("Ann", [unit(1)])
    a, _ = store.record(event(1, 1, "lost", ann, unit(1)))
    change = store.people.ignore(ann.id)
    assert store.row(a).kind is Kind.IGNORED
    assert gallery.search(unit(1), 1)[0].kind is Kind.IGNORED
    store.people.undo(change.id)
    assert store.row(a).kind is Kind.KNOWN
    store.people.ignore(ann.id, on=False)  # nothing to do, so nothing to take back in the gallery
    store.people.undo(store.people.history(1)[0].id)
    store.people.group(ann.id, "family")
    assert gallery.person("Ann").group == "family"
    store.people.undo(store.people.history(1)[0].id)
    assert gallery.person("Ann").group is None


def bytes_of(folder) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@pytest.mark.parametrize("by", ["people", "gallery", "expiry"])
def test_who_is_forgotten_leaves_no_byte(tmp_path, by) -> None:
    with Gallery.open(tmp_path / "g.gallery", model="m", size=D) as gallery:
        ann, ben = gallery.enroll("Ann Ash", [unit(1)]), gallery.enroll("Ben", [unit(2)])
        with Sightings.open(gallery) as store:
            a, _ = store.record(event(1, 1, "lost", ann, unit(3)))
            store.keep_crop(a, b"crop of the forgotten", 0.5, NOW)
            store.record(event(2, 2, "lost", ben, unit(4), NOW + timedelta(days=29)))
            if by == "people":
                assert store.people.forget(ann.id) == 1
            elif by == "gallery":
                gallery.forget("Ann Ash")
                assert store.residents.reconcile() == 1
            else:
                counts = store.expire(NOW.timestamp() + 31 * 86_400, Expiry())
                assert counts["appearances"] == 1 and counts["crops"] == 1
            assert [r.name for r in store.rows().rows] == ["Ben"]
            left = bytes_of(tmp_path)
    for trace in (b"crop of the forgotten", unit(3).tobytes()):
        assert trace not in left
    assert (b"Ann Ash" in left) == (by == "expiry")  # whom the gallery itself still knows
    assert unit(4).tobytes() in left


def test_expiry_goes_by_the_clock_and_the_kind(store, gallery) -> None:
    seen_again, gone = gallery.add_stranger(unit(1)), gallery.add_stranger(unit(2))
    then = time.time()
    late = datetime.fromtimestamp(then + 6 * 86_400, UTC)
    early = datetime.fromtimestamp(then, UTC)
    store.record(event(1, 1, "lost", seen_again, unit(1), late))
    store.record(event(2, 2, "lost", gone, unit(2), early))
    for n in range(4):
        a, _ = store.record(event(10 + n, 10 + n, "lost", None, unit(20 + n), late))
        store.keep_crop(a, b"x", n / 10, late)
    assert not any(store.expire(then + 5 * 86_400, Expiry()).values())
    counts = store.expire(then + 8 * 86_400, Expiry(nobodies=1))
    assert counts == {"crops": 3, "appearances": 1, "events": 1, "strangers": 1}
    assert [p.name for p in gallery.people()] == ["stranger-1"]
    assert [r.quality for r in store.rows(kind="unknown").rows if r.has_crop] == [0.3]


def test_pages_and_filters(store, gallery) -> None:
    ann = gallery.enroll("Ann", [unit(1)])
    for n in range(7):
        at = NOW + timedelta(seconds=n // 2)
        who = ann if n % 2 else None
        store.record(event(n, n, "lost", who, unit(n), at, camera="door" if n < 5 else "yard"))
    seen, cursor = [], None
    while True:
        page = store.rows(cursor=cursor, limit=3)
        seen += [row.track for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [6, 5, 4, 3, 2, 1, 0]
    assert [r.track for r in store.rows(camera="yard").rows] == [6, 5]
    assert [r.track for r in store.rows(kind=Kind.KNOWN).rows] == [5, 3, 1]
    assert [r.track for r in store.rows(kind="unknown", since=NOW.timestamp() + 1).rows] == [
        6,
        4,
        2,
    ]
    for bad in ({"cursor": "x"}, {"kind": "friend"}):
        with pytest.raises(GalleryError):
            store.rows(**bad)


def test_was_this_face_ever_here(store, gallery, monkeypatch) -> None:
    monkeypatch.setattr("edgeface.sightings.recall.TAIL", 20)
    ids = [store.record(event(n, n, "lost", None, unit(n)))[0] for n in range(50)]
    live, _ = store.record(event(99, 99, "seen", None, unit(99)))
    for n in (3, 30, 49):
        row, similarity = store.ever_here(unit(n), 0.9)[0]
        assert row.id == ids[n] and similarity == pytest.approx(1, abs=1e-3)
    assert store.ever_here(unit(99), 0.9)[0][0].id == live
    assert store.ever_here(-unit(1), 0.99) == []
    store.record(event(100, 100, "lost", None, unit(100)))
    assert store.ever_here(unit(100), 0.9)
    store.expire(NOW.timestamp() + 40 * 86_400, Expiry())
    assert store.ever_here(unit(3), 0.5) == []


def test_the_recorder_keeps_the_best_crop(store) -> None:
    recorder = Recorder(store)
    rng = np.random.default_rng(1)
    sharp = rng.integers(0, 255, (120, 160, 3)).astype(np.uint8)
    face = Face(
        np.array([40, 20, 100, 100], np.float32),
        np.array([[58, 50], [82, 50], [70, 65], [60, 80], [80, 80]], np.float32), 0.9,
    )  # fmt: skip
    told = event(1, 4, row=unit(4))
    recorder.publish(told)
    for n in range(8):
        frame = Frame(sharp, n / 2, n, "door", NOW + timedelta(seconds=n / 2))
        recorder.show(frame, [Sighting(face, told.decision, 4, told.template)])
    (row,) = store.rows().rows
    assert row.has_crop and store.crop(row.id)[:2] == b"\xff\xd8"
    assert row.last == NOW + timedelta(seconds=2)
    recorder.publish(event(2, 4, "lost", row=unit(4), at=NOW + timedelta(seconds=4)))
    recorder.close()


def test_an_encrypted_gallery_seals_what_was_seen(tmp_path) -> None:
    pytest.importorskip("cryptography")
    key = bytes(range(32))
    with Gallery.open(tmp_path / "g.gallery", model="m", size=D, key=key) as gallery:
        ann = gallery.enroll("Ann Ash", [unit(1)])
        with Sightings.open(gallery) as store:
            a, _ = store.record(event(1, 1, "lost", ann, unit(3)))
            store.keep_crop(a, b"picture of her", 0.5, NOW)
            assert store.crop(a) == b"picture of her" and store.row(a).name == "Ann Ash"
            assert store.ever_here(unit(3), 0.9)
            left = bytes_of(tmp_path)
    for secret in (b"Ann Ash", b"picture of her", unit(3).tobytes()):
        assert secret not in left


def test_files_of_others_are_refused(gallery, tmp_path) -> None:
    other = sqlite3.connect(tmp_path / "g.gallery.sightings")
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(GalleryError, match="holds no sightings"):
        Sightings.open(gallery)


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_sightings import *
with Gallery.open(sys.argv[1]) as gallery, Sightings.open(gallery) as store:
    store.listeners.append(lambda told: print(told["id"], flush=True))
    for n in range(10**6):
        store.record(event(n, n, row=unit(n % 50), run=sys.argv[3]))
"""


def test_what_a_client_saw_survives_kill_9(gallery, tmp_path) -> None:
    rng = np.random.default_rng(9)
    last = None
    with Sightings.open(gallery) as store:
        for round_ in range(int(os.environ.get("EDGEFACE_KILL_ROUNDS", "3"))):
            command = [sys.executable, "-c", WRITER, str(tmp_path / "g.gallery"),
                       str(Path(__file__).parent), f"run{round_:03}"]  # fmt: skip
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                seen = [child.stdout.readline().strip()]
                moment = float(rng.uniform(0.01, 0.2))
                timer = threading.Timer(moment, child.send_signal, [signal.SIGKILL])
                timer.start()
                seen += [line.strip() for line in child.stdout if line.endswith("\n")]
            timer.join()
            logged = [e["id"] for e in store.events(after=last, limit=10**6)]
            assert set(seen) <= set(logged)  # none that was told is lost
            assert len(logged) - len(seen) <= 2  # at most those that were about to be told
            assert len(set(logged)) == len(logged)
            last = logged[-1]
