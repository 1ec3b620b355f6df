"""Sightings and their gallery, in a file and on a server: what holds them together."""

import itertools
import json

import numpy as np
import pytest
from conftest import ROOT
from gallery_faces import MODEL, SIZE
from test_sightings import NOW, bytes_of, event

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery, Kind
from edgeface.sightings import Expiry, Sightings

pytest_plugins = ("gallery_places",)


def unit(seed: int) -> np.ndarray:
    row = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return row / np.linalg.norm(row)


def near(row: np.ndarray, seed: int) -> np.ndarray:
    mixed = row + 0.3 * unit(seed)
    return mixed / np.linalg.norm(mixed)


@pytest.fixture
def store(gallery):
    with Sightings.open(gallery) as opened:
        yield opened


def state(store: Sightings) -> list:
    """Everything that a change may touch, but for the numbers of changes."""
    with store.file.read() as execute:
        rows = execute(
            "SELECT id, given, given_by, person, template, last FROM appearance ORDER BY id"
        )
    people = [(p.id, p.name, p.kind, p.metadata) for p in store.gallery.people()]
    samples = [
        (s.id, p[0], s.embedding.tobytes(), s.provenance, s.crop, s.source)
        for p in people
        for s in store.gallery.samples(p[1])
    ]
    apart = [sorted(store.gallery.different_from(p[0])) for p in people]
    return [[tuple(map(_plain, row)) for row in rows], people, samples, apart]


def _plain(value):
    return bytes(value) if isinstance(value, memoryview) else value


def fill(store: Sightings) -> list[int]:
    """Two numbered strangers with appearances, two faces of nobody that are like the first."""
    gallery = store.gallery
    one, two = gallery.add_stranger(unit(1)), gallery.add_stranger(unit(2))
    n = itertools.count(1)
    for who, row in ((one, unit(1)), (two, unit(2)), (None, unit(1)), (None, unit(9))):
        for _ in range(2):
            k = next(n)
            store.record(event(k, k, "lost", who, near(row, 50 + k)))
    return [one.id, two.id]


def test_every_change_is_taken_back_bit_for_bit(store) -> None:
    one, two = fill(store)
    people, before = store.people, state(store)
    changes = {
        "name": lambda: people.name(one, "Ann"),
        "name by faces": lambda: people.name(None, "Cleo", [7, 8]),
        "merge": lambda: people.merge(one, [two])[0],
        "split": lambda: people.split(one, [1]),
        "not this": lambda: people.not_this(one, [2]),
        "not this of nobody": lambda: people.not_this(one, [7, 8]),
        "different": lambda: people.different(one, two),
        "ignore": lambda: people.ignore(two),
        "group": lambda: people.group(two, "courier"),
    }
    for what, change in changes.items():
        made = change()
        assert state(store) != before, what
        people.undo(made.id)
        assert state(store) == before, what


def test_changes_are_taken_back_in_any_order(store) -> None:
    one, _ = fill(store)
    people, before = store.people, state(store)
    named = people.name(one, "Ann")
    assert {r.name for r in store.some([1, 2, 5, 6])} == {"Ann"}
    apart = people.not_this(one, [5])
    people.undo(named.id)  # what `apart` would bring back is no longer Ann's
    people.undo(apart.id)
    assert state(store) == before


def test_what_the_gallery_took_back_can_be_taken_back_here(store) -> None:
    one, _ = fill(store)
    before = state(store)
    change = store.people.name(one, "Ann")
    store.gallery.undo()  # as `edgeface gallery undo` does
    store.people.undo(change.id)
    assert state(store) == before


def test_a_merge_of_several_is_all_or_nothing(store) -> None:
    one, two = fill(store)
    store.people.not_this(one, [2])
    three = store.row(2).person_id
    before = state(store)
    with pytest.raises(GalleryError, match="differ"):
        store.people.merge(one, [two, three])
    assert state(store) == before


def test_who_are_said_to_differ_are_never_joined_until_it_is_taken_back(store) -> None:
    one, two = fill(store)
    people, gallery = store.people, store.gallery
    said = people.different(two, one)
    assert said.count == 0 and gallery.different_from(one) == {two}
    with pytest.raises(GalleryError, match="different already"):
        people.different(one, two)
    with pytest.raises(GalleryError, match="differ"):
        people.merge(one, [two])
    people.undo(said.id)
    assert gallery.different_from(one) == set()
    again = people.different(one, two)
    gallery.merge("stranger-1", "stranger-2", force=True)
    with pytest.raises(GalleryError, match="merged since"):
        people.undo(again.id)
    gallery.undo()
    people.undo(again.id)
    assert gallery.different_from(one) == set() == gallery.different_from(two)


def test_faces_of_nobody_or_of_one_are_not_somebody(store) -> None:
    one, two = fill(store)
    people = store.people
    people.not_this(two, [7, 8])  # of nobody: one stranger, not two
    (who,) = {row.person_id for row in store.some([7, 8])}
    assert who not in (one, two, None) and two in store.gallery.different_from(who)
    with pytest.raises(GalleryError, match="somebody else than"):
        people.not_this(two, [1])
    with pytest.raises(GalleryError, match="nobody in"):
        people.not_this(99, [1])


def test_a_change_that_the_gallery_refuses_leaves_all_as_it_was(store) -> None:
    one, _ = fill(store)
    before = state(store)
    for bad in ("", "   ", "stranger-9", "a\nb"):
        with pytest.raises(GalleryError):
            store.people.name(one, bad)
        with pytest.raises(GalleryError):
            store.people.name(None, bad, [7])
    assert state(store) == before and store.people.history() == []


def test_a_person_is_made_of_a_bounded_number_of_faces(store) -> None:
    ids = [store.record(event(n, n, "lost", None, near(unit(1), n)))[0] for n in range(30)]
    store.people.name(None, "Ann", ids)
    assert store.gallery.person("Ann").n_samples == 16
    assert {row.name for row in store.some(ids)} == {"Ann"}


def test_who_was_merged_is_somebody_else_once_that_is_undone(store) -> None:
    one, two = fill(store)
    store.people.merge(one, [two])
    assert store.row(3).person_id == one
    store.gallery.undo()
    store.gallery.forget("stranger-2")
    assert store.row(3).person_id is None  # not the one whom they were merged into for a while
    assert store.residents.reconcile() == 2
    assert {row.person_id for row in store.rows(limit=99).rows} == {one, None}


def test_merges_are_remembered_longer_than_the_journal(store, monkeypatch) -> None:
    one, two = fill(store)
    store.people.merge(one, [two])
    assert store.row(3).person_id == one
    monkeypatch.setattr("edgeface.gallery.journal.KEPT", 2)
    for n in range(4):
        store.gallery.enroll(f"p{n}", [unit(20 + n)])
    assert store.row(3).person_id == one
    store.gallery.forget("stranger-1")
    assert store.row(3).person_id is None


def test_names_leave_the_log_with_their_people(store) -> None:
    ann = store.gallery.enroll("Ann Ash", [unit(1)])
    store.people.group(ann.id, "family")  # an event without any appearance
    ben = store.gallery.enroll("Ben", [unit(2)])
    seen, _ = store.record(event(1, 1, "lost", ann, unit(1)))
    store.people.name(ben.id, "Ben", [seen])  # it was Ben, but the log says Ann
    assert "Ann Ash" in str(store.events())
    store.gallery.forget("Ann Ash")
    store.residents.reconcile()
    assert "Ann Ash" not in str(store.events())
    assert store.row(seen).name == "Ben"


def test_changes_of_people_are_told_as_the_schema_says(store) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "event.schema.json").read_text(encoding="utf-8"))
    check = jsonschema.Draft202012Validator(schema)
    one, two = fill(store)
    told: list = []
    store.listeners.append(told.append)
    people = store.people
    people.name(one, "Ann")
    people.group(one, "family")
    people.undo(people.merge(one, [two])[0].id)
    people.not_this(one, [1])
    assert people.forget(one) == 3
    for change in told:
        check.validate(change)
        assert list(change) == schema["$defs"]["person"]["required"]
    assert [e["event"] for e in told] == [
        "person_renamed", "person_renamed", "person_merged", "change_undone", "person_split",
        "person_forgotten",
    ]  # fmt: skip
    assert store.residents.reconcile() == 0
    assert store.newest() == told[-1]["id"]  # which has no name, and stays


def test_expiry_and_filters_work_where_the_rows_are(store) -> None:
    one, _ = fill(store)
    store.people.name(one, "Ann")
    a, _ = store.record(event(90, 90, "lost", None, unit(4), camera="yard"))
    store.keep_crop(a, b"jpeg", 0.5, NOW)
    store.keep_crop(a, b"better", 0.7, NOW)
    assert store.crop(a) == b"better"
    assert {r.id for r in store.rows(person=one).rows} == {1, 2, 5, 6}
    assert {r.id for r in store.rows(kind=Kind.STRANGER).rows} == {3, 4}
    assert {r.id for r in store.rows(kind="unknown").rows} == {7, 8, a}
    assert [r.id for r in store.rows(camera="yard").rows] == [a]
    assert store.ever_here(unit(4), 0.9)[0][0].id == a
    counts = store.expire(NOW.timestamp() + 8 * 86_400, Expiry())
    assert counts["crops"] == 1 and counts["appearances"] == 5
    assert store.ever_here(unit(4), 0.9) == []


def test_whether_sightings_are_kept_is_known_without_making_any(gallery) -> None:
    assert not Sightings.kept(gallery)
    Sightings.open(gallery).close()
    assert Sightings.kept(gallery)


def test_events_are_read_on_from_where_changestopped(store) -> None:
    fill(store)
    ids = [e["id"] for e in store.events()]
    assert [e["id"] for e in store.events(after=ids[2], limit=3)] == ids[3:6]
    assert store.newest() == ids[-1]


def test_sightings_of_another_gallery_are_refused(path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery, Sightings.open(gallery) as store:
        fill(store)
    path.unlink()
    with (
        Gallery.open(path, model=MODEL, size=SIZE) as gallery,
        pytest.raises(GalleryError, match="of another gallery"),
    ):
        Sightings.open(gallery)


def test_encrypting_the_gallery_encrypts_what_was_seen(path, folder) -> None:
    pytest.importorskip("cryptography")
    key = bytes(range(32))
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        ann = gallery.enroll("Ann Ash", [unit(1)])
        running = Sightings.open(gallery)
        a, _ = running.record(event(1, 1, "lost", ann, unit(3)))
        running.keep_crop(a, b"picture of her", 0.5, NOW)
        before = running.events()
    Gallery.encrypt(path, key=key)
    with Gallery.open(path, key=key) as gallery, Sightings.open(gallery) as store:
        assert store.crop(a) == b"picture of her" and store.events() == before
        assert store.ever_here(unit(3), 0.9)
        with pytest.raises(GalleryError, match="encrypted meanwhile"):
            running.record(event(2, 2, "lost", None, unit(4)))
        running.close()
        left = bytes_of(folder)
    for secret in (b"Ann Ash", b"picture of her", unit(3).tobytes()):
        assert secret not in left


def test_a_long_question_keeps_no_camera_waiting(path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery, Sightings.open(gallery) as store:
        fill(store)
        with store.file.read() as execute:
            before = execute("SELECT count(*) FROM appearance")
            store.record(event(99, 99, "lost", None, unit(4)))
            assert execute("SELECT count(*) FROM appearance") == before
