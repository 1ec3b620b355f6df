"""The index finds what the rows hold, however large, however it came about."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gallery_faces import MODEL, SIZE, faces
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.gallery.index import hnswfile, mirror, numbers
from edgeface.gallery.index.hnsw import Hnsw
from edgeface.gallery.index.numbers import Numbers
from edgeface.gallery.index.people import ReadWriteLock
from edgeface.gallery.index.scan import Exact, Sketch

pytest_plugins = ("gallery_places",)
LIMIT = 300


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "EXACT_LIMIT", LIMIT)
    monkeypatch.setattr(mirror, "BUILD_CHUNK", 64)
    monkeypatch.setattr(mirror, "SAVE_AFTER", 1)


def searcher(kind: str, rows: np.ndarray, first: int | None = None):
    """A searcher of the `first` rows (all by default), whose ids begin at 100."""
    ids = np.arange(100, 100 + len(rows))[:first]

    def fetch(some):
        return some, rows[some - 100]

    made = {
        "exact": lambda: Exact(SIZE),
        "sketch": lambda: Sketch(SIZE, fetch),
        "graph": lambda: Hnsw.empty(SIZE, 10),
    }[kind]()
    made.add(ids, rows[: len(ids)])
    return made


def crowd(people: int, each: int = 4) -> np.ndarray:
    """Faces that come in clusters, as real ones do."""
    centres = np.repeat(faces(1, people), each, axis=0)
    rows = centres + 0.6 * faces(2, people * each)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def enrol_fours(gallery: Gallery, rows: np.ndarray) -> None:
    """Every four rows as a person, in one commit: p0, p1 …"""
    with gallery.batch():
        for i in range(0, len(rows), 4):
            gallery.enroll(f"p{i // 4}", rows[i : i + 4])


@pytest.mark.parametrize("kind", ["exact", "sketch", "graph"])
def test_every_searcher_finds_the_nearest_with_exact_similarities(kind: str) -> None:
    rows = crowd(200)
    index = searcher(kind, rows)
    probes = rows[::7] + 0.1 * faces(3, len(rows[::7]))
    probes = (probes / np.linalg.norm(probes, axis=1, keepdims=True)).astype(np.float32)
    ids, sims = index.search(probes, 5)
    truth = probes @ rows.T
    np.testing.assert_allclose(sims, np.take_along_axis(truth, ids - 100, axis=1), atol=2e-6)
    assert np.all(np.diff(sims, axis=1) <= 0)
    assert np.mean(ids[:, 0] - 100 == truth.argmax(axis=1)) >= 0.99


@pytest.mark.parametrize("kind", ["exact", "sketch", "graph"])
@settings(max_examples=20, deadline=None)
@given(removed=st.sets(st.integers(0, 59), max_size=60), again=st.integers(0, 30))
def test_what_is_removed_is_gone_and_the_rest_is_found(
    kind: str, removed: set[int], again: int
) -> None:
    rows = crowd(30, 3)
    index = searcher(kind, rows, 60)
    index.remove(np.array(sorted(removed), np.int64) + 100)
    index.add(np.arange(160, 160 + again), rows[60 : 60 + again])
    left = (set(range(60)) - removed) | set(range(60, 60 + again))
    assert len(index) == len(left)
    assert all(((i + 100) in index) is (i in left) for i in range(90))
    if left:
        ids, _ = index.search(rows[sorted(left)], len(left))
        assert (np.sort(ids, axis=1) == np.array(sorted(left)) + 100).all()
        assert (ids[:, 0] == np.array(sorted(left)) + 100).all()


def test_what_is_compared_with_everything_is_exact_to_the_last_place() -> None:
    """Although the rows are looked at as int8, and came and went."""
    rows, index = crowd(300), Exact(SIZE)
    for start in range(0, 1200, 150):
        index.add(np.arange(start, start + 150), rows[start : start + 150])
        index.remove(np.arange(start, start + 150, 7))
    held = np.array([i for i in range(1200) if i % 150 % 7])
    probes = faces(8, 50)
    exact = probes.astype(np.float64) @ rows[held].astype(np.float64).T
    order = np.argsort(-exact, axis=1)[:, :20]
    ids, sims = index.search(probes, 20)
    np.testing.assert_array_equal(ids, held[order])
    found = np.take_along_axis(exact, order, axis=1).astype(np.float32)
    np.testing.assert_array_equal(sims, found)
    index.remove(held)
    assert not any(column.any() for column in index._columns), "no forgotten face stays in memory"


def test_a_removed_vector_is_overwritten(folder: Path) -> None:
    rows = crowd(30, 3)
    index = searcher("graph", rows)
    index.remove(np.array([117]))
    index.save(folder / "saved")
    content = (folder / "saved").read_bytes()
    assert rows[17].tobytes() not in content
    assert rows[18].tobytes() in content


def test_a_graph_is_saved_and_loaded_with_what_is_still_wanted(folder: Path) -> None:
    rows = crowd(30, 3)
    index = searcher("graph", rows)
    index.remove(np.array([100]))
    index.save(folder / "saved")
    assert [p.name for p in folder.iterdir()] == ["saved"]
    loaded = Hnsw.load(folder / "saved", SIZE, np.arange(101, 180))
    assert len(loaded) == 79
    assert 100 not in loaded
    assert 185 not in loaded
    ids, sims = loaded.search(rows[50:51], 3)
    assert (ids[0, 0], sims[0, 0]) == (150, pytest.approx(1.0, abs=1e-6))
    (folder / "saved").write_bytes(b"no graph")
    with pytest.raises(GalleryError):
        Hnsw.load(folder / "saved", SIZE, np.empty(0, np.int64))


def state(graph) -> dict:
    """What an index of hnswlib consists of, its labels in the order of their nodes."""
    (found,) = graph.__getstate__()
    order = np.argsort(found["label_lookup_internal"])
    found["labels"] = found.pop("label_lookup_external")[order]
    found["nodes"] = found.pop("label_lookup_internal")[order]
    return {k: v for k, v in found.items() if k not in {"seed", "num_threads"}}


@pytest.mark.parametrize("samples", [1, 50, 3000])
def test_a_saved_graph_is_read_as_hnswlib_reads_it(samples: int, folder: Path) -> None:
    import hnswlib

    rows = faces(5, samples)
    index = Hnsw.empty(SIZE, samples + 20)
    index.add(np.arange(samples) * 3 + 7, rows)
    index.remove(np.arange(min(samples - 1, 5)) * 3 + 7)
    index.save(folder / "saved")
    found, labels = hnswfile.read(folder / "saved", SIZE)
    known = hnswlib.Index(space="ip", dim=SIZE)
    known.load_index(str(folder / "saved"), allow_replace_deleted=True)
    np.testing.assert_equal(state(found), state(known))
    assert sorted(labels.tolist()) == sorted(known.get_ids_list())
    if samples > 10:  # and it goes on, in the places of deleted nodes and in new ones
        ids = np.arange(25) + 4 * samples
        found.add_items(faces(6, 25), ids, replace_deleted=True)
        assert found.get_current_count() == samples + 20
        np.testing.assert_array_equal(found.knn_query(faces(6, 25))[0][:, 0], ids)


@pytest.mark.parametrize("kept", [0, 50, 96, 1000, -4, -1])
def test_what_is_no_graph_is_said(kept: int, folder: Path) -> None:
    index = searcher("graph", crowd(100))
    index.save(folder / "saved")
    whole = (folder / "saved").read_bytes()
    (folder / "saved").write_bytes(whole[:kept])
    with pytest.raises(GalleryError):
        Hnsw.load(folder / "saved", SIZE, np.empty(0, np.int64))
    (folder / "saved").write_bytes(whole)
    with pytest.raises(GalleryError):
        Hnsw.load(folder / "saved", SIZE + 1, np.empty(0, np.int64))


def fill(gallery: Gallery, people: int, start: int = 0) -> None:
    for i in range(start, start + people):
        gallery.enroll(f"p{i}", faces(i, 20))


def answers(gallery: Gallery) -> list[list[int]]:
    probes = np.concatenate([faces(i, 20)[:1] for i in range(30)])
    return [[m.person_id for m in found[:1]] for found in gallery.search_many(probes, 3)]


def test_a_gallery_grows_from_scan_to_graph_and_opens_with_it(path: Path, folder: Path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        kinds = []
        for i in range(20):
            fill(gallery, 1, start=i)
            kinds.append(type(gallery._finder._index.searcher))
        assert kinds[0] is Exact
        gallery.settle()
        assert type(gallery._finder._index.searcher) is Hnsw
        fill(gallery, 5, start=20)
        gallery.forget("p3")
        gallery.merge("p4", "p5")
        before = answers(gallery)
        assert len(gallery) == 24 * 20
    (cache,) = [p for p in folder.iterdir() if p != path]
    with Gallery.open(path) as gallery:
        assert type(gallery._finder._index.searcher) is Hnsw
        assert gallery._finder._builder is None, "nothing had to be built"
        assert answers(gallery) == before
        assert len(gallery) == 24 * 20
    cache.unlink()
    with Gallery.open(path) as gallery:
        assert answers(gallery) == before, "the index is only a cache"
        gallery.settle()
        assert answers(gallery) == before
    assert cache.exists()


def test_a_cache_behind_or_beside_the_gallery_does_no_harm(path: Path, folder: Path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        fill(gallery, 20)
        gallery.settle()
    (cache,) = [p for p in folder.iterdir() if p != path]
    old = cache.read_bytes()
    with Gallery.open(path) as gallery:
        gallery.merge("p1", "p2")
        gallery.forget("p3")
        assert not cache.exists(), "a forgotten face must not stay in the cache"
        fill(gallery, 3, start=20)
        before = answers(gallery)
    for content in (old, old[: len(old) // 2], b""):
        cache.write_bytes(content)
        with Gallery.open(path) as gallery:
            assert answers(gallery) == before
            gallery.settle()
            assert answers(gallery) == before
    other = folder / "other.gallery"
    with Gallery.open(other, model=MODEL, size=SIZE) as gallery:
        for i in range(20):
            gallery.enroll(f"q{i}", faces(5000 + i, 20))
        gallery.settle()
    (foreign,) = [p for p in folder.iterdir() if p.name.startswith("other.gallery-")]
    cache.write_bytes(foreign.read_bytes())
    with Gallery.open(path) as gallery:
        assert answers(gallery) == before, "vectors that are not the rows' are not trusted"


def test_changes_during_the_building_are_not_missed(path: Path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("many", faces(0, 4000))
        fill(gallery, 10, start=1)
        gallery.forget("p2")
        gallery.merge("p3", "p4")
        gallery.settle()
        assert type(gallery._finder._index.searcher) is Hnsw
        assert len(gallery) == 4000 + 180
        found = {i: gallery.search(faces(i, 20)[0], 1)[0].name for i in (1, 2, 3, 4, 10)}
        assert (found[1], found[3], found[4], found[10]) == ("p1", "p3", "p3", "p10")
        assert found[2] != "p2"


def test_searching_while_inserting_from_threads(path: Path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        fill(gallery, 16)
        errors: list[BaseException] = []
        stop = threading.Event()

        def look() -> None:
            try:
                while not stop.is_set():
                    assert gallery.search(faces(5, 20)[3], 1)[0].name == "p5"
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        fill(gallery, 10, start=100)
        gallery.forget("p7")
        gallery.settle()
        stop.set()
        for thread in threads:
            thread.join()
        assert not errors


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock, order = ReadWriteLock(), []
    inside, done = threading.Event(), threading.Event()

    def read() -> None:
        with lock:
            inside.set()
            done.wait(5)
            order.append("reader")

    def write() -> None:
        with lock.writing():
            order.append("writer")

    reader, writer = threading.Thread(target=read), threading.Thread(target=write)
    reader.start()
    inside.wait(5)
    writer.start()
    while not lock._waiting:
        pass
    late = threading.Thread(target=read)
    late.start()
    done.set()
    for thread in (reader, writer, late):
        thread.join(5)
    assert order == ["reader", "writer", "reader"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="written in place elsewhere")
def test_searches_go_on_while_the_index_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes its time, and a library that keeps Python's lock meanwhile, keep nobody
    waiting who searches, also right after a change."""
    rows = crowd(LIMIT // 2)
    begun, go_on = folder / "begun", folder / "go-on"
    save, sleep = Hnsw.save, ctypes.PyDLL(None).usleep  # which keeps the lock

    def slow(self: Hnsw, path: Path) -> None:
        begun.touch()
        for _ in range(2000):
            if go_on.exists():
                break
            sleep(10_000)
        save(self, path)

    monkeypatch.setattr(Hnsw, "save", slow)
    with Gallery.open(folder / "g.gallery", model=MODEL, size=SIZE) as gallery:
        enrol_fours(gallery, rows)
        until = time.monotonic() + 20
        while not begun.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        gallery._finder._seen = None  # as after a change that this search has not seen
        assert gallery.search(rows[8])[0].name == "p2"
        assert not list(folder.glob("g.gallery-index-????????"))
        go_on.touch()
        gallery.settle()
    assert list(folder.glob("g.gallery-index-????????"))


def test_an_index_that_cannot_be_written_is_said_and_the_gallery_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Hnsw, path: Path) -> None:
        raise RuntimeError("no space")

    monkeypatch.setattr(Hnsw, "save", broken)
    rows = crowd(LIMIT // 2)
    with Gallery.open(folder / "g.gallery", model=MODEL, size=SIZE) as gallery:
        enrol_fours(gallery, rows)
        gallery.settle()
        assert "could not be kept" in caplog.text
        assert gallery.search(rows[8])[0].name == "p2"
    assert not list(folder.glob("g.gallery-index-*"))


def test_where_no_process_can_be_made_the_index_is_written_in_this_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise OSError(12, "no memory")

    monkeypatch.setattr(os, "fork", refused)
    rows = crowd(LIMIT // 2)
    with Gallery.open(folder / "g.gallery", model=MODEL, size=SIZE) as gallery:
        enrol_fours(gallery, rows)
        gallery.settle()
    assert list(folder.glob("g.gallery-index-????????"))


def test_people_who_come_while_the_index_is_built_are_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = crowd(LIMIT)
    begun, go_on = threading.Event(), threading.Event()
    add = Hnsw.add

    def slow(self: Hnsw, ids, new) -> None:
        begun.set()
        assert go_on.wait(20)
        add(self, ids, new)

    monkeypatch.setattr(Hnsw, "add", slow)
    with Gallery.open(folder / "g.gallery", model=MODEL, size=SIZE) as gallery:
        with gallery.batch():
            for i in range(0, len(rows) - 400, 4):
                gallery.enroll(f"p{i // 4}", rows[i : i + 4])
        assert begun.wait(20)
        for i in range(len(rows) - 400, len(rows), 4):
            gallery.enroll(f"p{i // 4}", rows[i : i + 4])
        gallery.forget("p0")
        gallery.forget(f"p{len(rows) // 4 - 1}")
        go_on.set()
        gallery.settle()
        assert gallery._finder._graph is not None
        for i in range(4, len(rows) - 4, 40):
            assert gallery.search(rows[i])[0].name == f"p{i // 4}"
        gone = {m.name for m in gallery.search(rows[0], 20) + gallery.search(rows[-1], 20)}
        assert not gone & {"p0", f"p{len(rows) // 4 - 1}"}


def test_whose_a_sample_is_does_not_depend_on_the_order_of_enrolment(folder: Path) -> None:
    """People enrolled at once, by and by, and a sample whose owner is damaged."""
    rows = faces(4, 40)
    for scattered in (1, 9):
        with Gallery.open(folder / f"{scattered}.gallery", model=MODEL, size=SIZE) as gallery:
            for turn in range(2):
                for i in range(10):
                    if turn == 0 or i < scattered:
                        gallery.enroll(f"p{i}", rows[2 * i + 20 * turn :][:2])
            gallery.forget("p4")
            with gallery._read() as tables:
                plain = tables.execute("SELECT id, person_id FROM sample")
                ids, people = tables.owners()
                assert list(zip(ids.tolist(), people.tolist(), strict=True)) == sorted(plain)


@settings(max_examples=60, deadline=None)
@given(
    first=st.dictionaries(st.integers(0, 40), st.integers(0, 9)),
    steps=st.lists(
        st.tuples(st.booleans(), st.dictionaries(st.integers(0, 40), st.integers(0, 9)))
    ),
    least=st.integers(0, 10),
)
def test_numbers_are_those_of_a_dictionary(
    first: dict[int, int], steps: list[tuple[bool, dict[int, int]]], least: int
) -> None:
    def arrays(some: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(list(some), np.int64), np.array(list(some.values()), np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "LEAST", least)
        plain, held = dict(first), Numbers.of(*arrays(first))
        for add, some in steps:
            keys, values = arrays(some)
            if add:
                plain.update(some)
                held.put(keys, values)
            else:
                for key in some:
                    plain.pop(key, None)
                held.drop(keys)
            assert len(held) == len(plain)
            assert sorted(held.keys().tolist()) == sorted(plain)
            assert held[np.array(list(plain), np.int64)] == list(plain.values())
            for key in range(42):
                assert (key in held) is (key in plain)
                if key not in plain:  # a wrong name would be worse than an error
                    with pytest.raises(KeyError):
                        held[np.array([key])]
