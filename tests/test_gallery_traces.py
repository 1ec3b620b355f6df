"""What is forgotten is nowhere any more, and a disk that refuses makes no gallery unusable."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gallery_faces import MODEL, SIZE, faces, names

from edgeface.atomic import partial_of
from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.gallery.index import families, mirror
from edgeface.gallery.index.cache import SETTING
from edgeface.gallery.index.families import Family
from edgeface.gallery.index.scan import Exact
from edgeface.gallery.storage.sqlite import SqliteDatabase

pytest_plugins = ("gallery_places",)
VICTIM = faces(7)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "EXACT_LIMIT", 300)
    monkeypatch.setattr(mirror, "SAVE_AFTER", 1)


def crowded(path: Path) -> None:
    """A gallery with an index beside it, somebody to be forgotten in both."""
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Victim", VICTIM, sources=["passport.jpg"])
        gallery.enroll("Crowd", faces(1, 400))
        gallery.settle()


def holding(folder: Path, mark: bytes = VICTIM.tobytes()) -> list[str]:
    """The files below a folder that hold the forgotten face."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return sorted(p.name for p in files if mark in p.read_bytes())


def index_of(path: Path) -> Path:
    (index,) = path.parent.glob(f"{path.name}-index-*")
    return index


def test_the_index_holds_faces_so_it_matters(path: Path, folder: Path) -> None:
    crowded(path)
    assert holding(folder) == [path.name, index_of(path).name]


def test_forgotten_through_a_link(path: Path, folder: Path) -> None:
    (folder / "data").mkdir()
    real = folder / "data" / "people.gallery"
    crowded(real)
    path.symlink_to(real)
    with Gallery.open(path) as gallery:
        gallery.forget("Victim")
        assert holding(folder) == []
        assert sorted(p.name for p in folder.iterdir()) == ["data", path.name]
    assert holding(folder) == []


def test_forgotten_after_the_file_was_renamed(path: Path, folder: Path) -> None:
    crowded(path)
    path.rename(folder / "renamed.gallery")
    with Gallery.open(folder / "renamed.gallery") as gallery:
        gallery.forget("Victim")
    assert holding(folder) == []


def test_forgotten_although_an_index_was_cut_off_while_written(path: Path, folder: Path) -> None:
    crowded(path)
    index = index_of(path)
    code = (
        "import os, signal, sys\nfrom edgeface.atomic import replacing_by_name\n"
        "with replacing_by_name(sys.argv[1]) as partial:\n"
        "    partial.write_bytes(open(sys.argv[1], 'rb').read())\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(index)], check=False)
    index.with_name(f"{index.name}.4711").write_bytes(index.read_bytes())  # of an older edgeface
    assert len(holding(folder)) == 4
    assert partial_of(index).name in holding(folder)
    with Gallery.open(path) as gallery:
        gallery.forget("Victim")
    assert holding(folder) == []


def test_other_galleries_keep_their_index(path: Path, folder: Path) -> None:
    crowded(path)
    other = folder / "other.gallery"
    crowded(other)
    with Gallery.open(path) as gallery:
        gallery.forget("Victim")
    assert holding(folder) == [other.name, index_of(other).name]


def test_a_killed_builder_of_the_index_leaves_nothing_after_a_forget(
    path: Path, folder: Path
) -> None:
    crowded(path)
    code = (
        "import sys\nfrom edgeface.gallery import Gallery\n"
        "from edgeface.gallery.index import mirror\n"
        "mirror.EXACT_LIMIT, mirror.SAVE_AFTER = 300, 1\n"
        "while True:\n"
        "    with Gallery.open(sys.argv[1]) as gallery:\n"
        "        print('open', flush=True); gallery.settle(); gallery._finder._unsaved = 1\n"
    )
    rng = random.Random(1)
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05 * rng.random())
        child.send_signal(signal.SIGKILL)
        child.communicate()
    with Gallery.open(path) as gallery:
        gallery.forget("Victim")
        assert holding(folder) == []
        assert len(gallery) == 400


@pytest.mark.parametrize("step", ["_finder", "_db"])
def test_a_forget_that_cannot_rewrite_warns_and_goes_on(
    path: Path, step: str, monkeypatch, caplog
) -> None:
    crowded(path)

    def refuse() -> None:
        raise GalleryError("no space left on the disk")

    with Gallery.open(path) as gallery:
        monkeypatch.setattr(getattr(gallery, step), "scrub", refuse)
        gallery.forget("Victim")
        assert "traces of what was deleted may stay" in caplog.text
        assert "no space left" in caplog.text
        assert names(gallery) == ["Crowd"]
        assert {m.name for m in gallery.search(VICTIM[0])} == {"Crowd"}
    with Gallery.open(path) as gallery:
        assert names(gallery) == ["Crowd"], "and the next opening does the rest"
        assert gallery._summary().settings["scrub"] == "done"
    assert holding(path.parent) == []


def test_an_opening_that_cannot_rewrite_opens(path: Path, monkeypatch, caplog) -> None:
    crowded(path)

    def refuse(_: SqliteDatabase) -> None:
        raise GalleryError("no space left on the disk")

    monkeypatch.setattr(SqliteDatabase, "scrub", refuse)
    with Gallery.open(path) as gallery:
        gallery.forget("Victim")
    for _ in range(2):
        caplog.clear()
        with Gallery.open(path) as gallery:
            assert names(gallery) == ["Crowd"]
            assert gallery.search(faces(1)[0])[0].name == "Crowd"
        assert "traces" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(path: Path, folder: Path) -> None:
    crowded(path)
    path.chmod(0o400)
    folder.chmod(0o500)
    try:
        with Gallery.open(path) as gallery:
            assert names(gallery) == ["Victim", "Crowd"]
            with pytest.raises(GalleryError, match=r"may not be written|cannot be"):
                gallery.forget("Victim")
    finally:
        folder.chmod(0o700)


def test_temporary_storage_is_in_memory(local: Gallery) -> None:
    for connection in local._db._connections:
        assert connection.execute("PRAGMA temp_store").fetchone() == (2,)


def test_an_opening_that_fails_ends_what_it_began(path: Path, monkeypatch) -> None:
    crowded(path)
    index_of(path).unlink()
    ended: list[str] = []
    close = mirror.Mirror.close
    monkeypatch.setattr(mirror.Mirror, "close", lambda self: (ended.append("finder"), close(self)))

    def fail(_: Gallery) -> None:
        raise GalleryError("no summary")

    monkeypatch.setattr(Gallery, "_summary", fail)
    with pytest.raises(GalleryError, match="no summary"):
        Gallery.open(path)
    assert ended == ["finder"]


def test_files_of_faces_are_for_their_owner(path: Path, folder: Path) -> None:
    before = os.umask(0o022)
    try:
        crowded(path)
        with Gallery.open(path) as gallery:
            gallery.export_npz(folder / "x.npz")
            with gallery._db.transaction() as execute:
                execute("UPDATE sample SET source = ?", ("x" * 9000,))
                journal = path.with_name(f"{path.name}-journal")
                assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 3


def mutations(good: bytes, count: int) -> list[tuple[str, bytes]]:
    """Ways in which a file comes back damaged, seeded."""
    rng = random.Random(5)
    made: list[tuple[str, bytes]] = [("empty", b""), ("zeros", bytes(len(good)))]
    while len(made) < count:
        kind = rng.choice(["cut", "longer", "zero page", "random page", "bit", "header", "bits"])
        content, at = bytearray(good), rng.randrange(len(good))
        page = slice(at // 4096 * 4096, at // 4096 * 4096 + 4096)
        if kind == "cut":
            del content[at:]
        elif kind == "longer":
            content += rng.randbytes(1 + at % 100)
        elif kind == "zero page":
            content[page] = bytes(len(content[page]))
        elif kind == "random page":
            content[page] = rng.randbytes(len(content[page]))
        elif kind == "header":
            content[rng.randrange(96)] ^= 1 << rng.randrange(8)
        else:
            for _ in range(1 if kind == "bit" else 20):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        made.append((kind, bytes(content)))
    return made


def test_a_damaged_index_is_built_again(path: Path, folder: Path) -> None:
    pytest.importorskip("hnswlib")
    crowded(path)
    index = index_of(path)
    good = index.read_bytes()
    probes = np.concatenate([VICTIM, faces(1, 400)[::37]])
    with Gallery.open(path) as gallery:
        right = [[m.name for m in found] for found in gallery.search_many(probes, 2)]
        assert gallery._finder._builder is None, "the index that was kept is used"
    for kind, content in mutations(good, 200):
        if content == good:
            continue
        index.write_bytes(content)
        with Gallery.open(path) as gallery:
            assert gallery._finder._builder is not None, f"{kind}: it is not used"
            found = gallery.search_many(probes, 2)
            assert [[m.name for m in one] for one in found] == right, kind
            assert all(one[0].similarity > 0.9999 for one in found), kind
            gallery._finder._stop.set()  # no need to build it each time


def test_an_index_of_an_earlier_state_is_not_used(path: Path) -> None:
    pytest.importorskip("hnswlib")
    crowded(path)
    old = index_of(path).read_bytes()
    with Gallery.open(path) as gallery:
        gallery.enroll("New", faces(9, 2))
    index_of(path).write_bytes(old)
    with Gallery.open(path) as gallery:
        assert gallery._finder._builder is not None
        assert gallery.search(faces(9, 2)[1])[0].name == "New"


class Toy(Exact):
    """An index library that somebody adds: numpy and its own file format."""

    def ids(self) -> set[int]:
        return set(self.contents()[0].tolist())

    def save(self, path: Path) -> None:
        ids, rows = self.contents()
        with path.open("wb") as file:
            np.savez(file, ids=ids, rows=rows)

    @classmethod
    def load(cls, path: Path, size: int, wanted) -> Toy:
        made, keep = cls(size), set(wanted)
        with np.load(path) as stored:
            chosen = np.array([i in keep for i in stored["ids"].tolist()], bool)
            made.add(stored["ids"][chosen], stored["rows"][chosen])
        return made


def test_an_index_library_is_one_file_and_one_row(path: Path, folder: Path, monkeypatch) -> None:
    row = Family("toy", "numpy", lambda size, room: Toy(size), Toy.load)
    monkeypatch.setattr(families, "FAMILIES", [row])
    crowded(path)
    with Gallery.open(path) as gallery:
        assert type(gallery._finder._index.searcher) is Toy
        assert gallery._finder._builder is None, "it was kept and read again"
        assert gallery._summary().settings[SETTING].startswith("toy:")
        assert gallery.search(VICTIM[0])[0].name == "Victim"
        gallery.forget("Victim")
        assert holding(folder) == []
        assert {m.name for m in gallery.search(VICTIM[0])} == {"Crowd"}
