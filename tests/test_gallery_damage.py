"""A damaged row stops nobody and names nobody; a damaged file is refused in one line."""

from __future__ import annotations

import math
import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from gallery_faces import MODEL, SIZE, faces, names

from edgeface.errors import EdgefaceError, GalleryError
from edgeface.gallery import Flaw, Gallery, audit
from edgeface.gallery.storage import values

pytest_plugins = ("gallery_places",)


@pytest.fixture(autouse=True)
def say_again() -> None:
    values.warn.cache_clear()


def edit(path: Path, *statements: tuple[object, ...] | str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        if isinstance(statement, str):
            connection.execute(statement)
        else:
            connection.execute(*statement)
    connection.commit()
    connection.close()


def flipped(row: np.ndarray, byte: int, bit: int) -> bytes:
    content = bytearray(row.astype("<f4").tobytes())
    content[byte] ^= 1 << bit
    return bytes(content)


ALICE = faces(1)[0]
BAD = {
    "a flipped exponent bit": flipped(ALICE, 4 * 5 + 3, 6),
    "a flipped sign and exponent": flipped(ALICE * -1, 4 * 9 + 3, 5),
    "NaN": np.full(SIZE, np.nan, "<f4").tobytes(),
    "one infinity": np.where(np.arange(SIZE) == 3, np.inf, ALICE).astype("<f4").tobytes(),
    "length 100": (100 * ALICE).astype("<f4").tobytes(),
    "zeros": bytes(4 * SIZE),
    "too short": ALICE.astype("<f4").tobytes()[:-4],
    "too long": ALICE.astype("<f4").tobytes() * 2,
    "not whole floats": b"abc",
    "text": "hello",
    "a number": 7,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_damaged_embedding_is_left_out_and_listed(path: Path, bad: object, caplog) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Alice", faces(1))
        gallery.enroll("Bob", faces(2, 3))
    edit(path, ("UPDATE sample SET embedding = ? WHERE id = 1", (bad,)))
    with Gallery.open(path) as gallery:
        assert "sample 1" in caplog.text
        assert caplog.text.count("sample 1 ") == 1, "said once"
        for probe in faces(50, 20):
            found = gallery.search(probe)
            assert [m.name for m in found] == ["Bob"]
            assert abs(found[0].similarity) <= 1.0
        assert gallery.samples("Alice") == []
        assert len(gallery.samples("Bob")) == 3
        listed = [f for f in audit(gallery, 0.5) if f.flaw is Flaw.DAMAGED]
        assert [(f.person, f.sample) for f in listed] == [("Alice", 1)]
        assert math.isnan(listed[0].similarity)
        gallery.enroll("Alice", faces(1))
        assert gallery.search(ALICE)[0].name == "Alice"
        gallery.forget("Alice")
        assert [f for f in audit(gallery, 0.5) if f.flaw is Flaw.DAMAGED] == []


def test_a_bit_that_hardly_matters_is_no_damage(path: Path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Alice", faces(1))
    low = flipped(ALICE, 4 * 5, 1)
    edit(path, ("UPDATE sample SET embedding = ? WHERE id = 1", (low,)))
    with Gallery.open(path) as gallery:
        assert gallery.search(ALICE)[0].similarity == pytest.approx(1.0, abs=1e-5)


def test_a_damaged_embedding_is_found_while_the_gallery_is_open(path: Path, local: Gallery) -> None:
    local.enroll("Alice", faces(1))
    with Gallery.open(path) as other:
        other.enroll("Bob", faces(2))
        bad = BAD["a flipped exponent bit"]
        edit(
            path,
            ("UPDATE sample SET embedding = ?, revision = 3 WHERE person_id = 2", (bad,)),
            "UPDATE state SET revision = 3",
        )
        assert [m.name for m in local.search(faces(2)[0])] == ["Alice"]


def test_a_damaged_person_is_left_out(path: Path, caplog) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        for n, name in enumerate(["Ann", "Bea", "Cleo"]):
            gallery.enroll(name, faces(n), metadata={"n": n} if n else None)
    for change in (
        "UPDATE person SET kind = 'knowm' WHERE id = 2",
        "UPDATE person SET kind = 'known', metadata = '{' WHERE id = 2",
        ("UPDATE person SET metadata = ? WHERE id = 2", ("[" * 100_000,)),
        "UPDATE person SET metadata = NULL, created = 'yesterday' WHERE id = 2",
        ("UPDATE person SET created = 1.0, name = ? WHERE id = 2", (b"\xff\xfe",)),
    ):
        values.warn.cache_clear()
        caplog.clear()
        edit(path, change)
        with Gallery.open(path) as gallery:
            assert names(gallery) == ["Ann", "Cleo"]
            assert "person 2" in caplog.text
            assert gallery.search(faces(2)[0])[0].name == "Cleo"


def test_a_name_cannot_steer_a_terminal(path: Path) -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J\nfake"
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Ann", faces(1), sources=["a.jpg"])
    edit(
        path,
        ("UPDATE person SET name = ?, name_key = ?", (evil, evil)),
        ("UPDATE sample SET source = ?", (evil,)),
    )
    with Gallery.open(path) as gallery:
        (name,) = names(gallery)
        shown = [name, gallery.search(ALICE)[0].name, str(gallery.samples(name)[0].source)]
        assert all(c.isprintable() or c == "\ufffd" for text in shown for c in text)
        gallery.rename(name, "Ann")
        assert names(gallery) == ["Ann"]


SETTINGS = {
    "size negative": "UPDATE setting SET value = '-5' WHERE key = 'size'",
    "size text": "UPDATE setting SET value = 'x' WHERE key = 'size'",
    "size huge": "UPDATE setting SET value = '999999999999' WHERE key = 'size'",
    "no size": "DELETE FROM setting WHERE key = 'size'",
    "no cipher": "DELETE FROM setting WHERE key = 'cipher'",
    "unknown cipher": "UPDATE setting SET value = 'rot13' WHERE key = 'cipher'",
    "no state": "DELETE FROM state",
    "two states": "INSERT INTO state VALUES (99, 0, 0)",
    "revision too large": "UPDATE state SET revision = 9223372036854775807",
    "revision text": "UPDATE state SET revision = 'x'",
    "threshold text": "INSERT INTO setting VALUES ('threshold', 'x'), ('threshold_origin', 'x')",
    "threshold NaN": "INSERT INTO setting VALUES ('threshold', 'nan'), ('threshold_origin', 'x')",
    "no samples": "DROP TABLE sample",
    "version": "PRAGMA user_version = -1",
    "view": "CREATE VIEW other AS SELECT * FROM other",
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_a_gallery_with_wrong_settings_is_refused_clearly(path: Path, change: str) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Ann", faces(1))
    edit(path, change)
    with pytest.raises(GalleryError) as caught:
        use(path)
        raise GalleryError("used")
    assert "\n" not in str(caught.value)


def test_a_gallery_id_is_no_path(path: Path, folder: Path) -> None:
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Ann", faces(1))
    edit(path, "UPDATE setting SET value = '/../../x' WHERE key = 'uuid'")
    use(path)
    assert [p.name for p in folder.iterdir()] == [path.name]


def use(path: Path) -> None:
    """Whatever is done with a gallery."""
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.search(faces(1)[0])
        assert gallery.count() >= 0
        assert gallery.threshold is None or math.isfinite(gallery.threshold.value)
        for person in gallery.people():
            gallery.samples(person.name)
        gallery.enroll("Zoe", faces(3))
        gallery.search(faces(3)[0])
        gallery.history()
        gallery.undo()
        audit(gallery, 0.4)
        for person in gallery.people()[:1]:
            gallery.forget(person.name)
        gallery.forget_strangers(1.0)


def test_any_value_in_any_column_is_refused_or_used(path: Path, folder: Path) -> None:
    """A value of another type or size never ends in another error than ours, nor a missing row."""
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Ann", faces(1, 3), metadata={"a": 1})
        gallery.add_stranger(faces(4)[0])
        gallery.rename("Ann", "Anna")
    good, here = path.read_bytes(), folder / "m.gallery"
    changes: list[tuple[str, tuple[object, ...]]] = []
    with closing(sqlite3.connect(path)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            changes.append((f"DELETE FROM {table}", ()))
            for _, column, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                change = f"UPDATE {table} SET {column} = ?"
                changes += [(change, (v,)) for v in ("", "x", b"\xff", -1, 1e308, "nan", 2**62)]
        for (key,) in database.execute("SELECT key FROM setting").fetchall():
            changes.append(("DELETE FROM setting WHERE key = ?", (key,)))
            changes += [
                ("UPDATE setting SET value = ? WHERE key = ?", (value, key))
                for value in ("", "x", "-1", "nan", "1e308")
            ]
    tried = 0
    for change, given in changes:
        here.write_bytes(good)
        with closing(sqlite3.connect(here)) as database, suppress(sqlite3.Error), database:
            database.execute(change, given)
            tried += 1
        with suppress(EdgefaceError):
            use(here)
        for file in folder.glob("m.gallery*"):
            file.unlink()
    assert tried > 150


def test_mutated_files_are_refused_or_used(path: Path, folder: Path) -> None:
    """Whatever a disk or an attacker does to a file, it never ends in another error than ours."""
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Ann", faces(1, 3), metadata={"a": 1}, crops=[b"c"] * 3)
        gallery.enroll("Bea", faces(2))
        gallery.add_stranger(faces(4)[0])
        gallery.rename("Bea", "Beatrix")
    good, rng, refused = path.read_bytes(), random.Random(11), 0
    for number in range(150):
        content = bytearray(good)
        if number % 5 == 0:
            del content[rng.randrange(len(content)) :]
        elif number % 5 == 1:
            at = rng.randrange(len(content) - 64)
            content[at : at + 64] = rng.randbytes(64)
        else:
            # Where something is: most of a small database is empty.
            places = [i for i, byte in enumerate(content) if byte]
            for _ in range(rng.randint(1, 8)):
                content[rng.choice(places)] ^= 1 << rng.randrange(8)
        here = folder / "m.gallery"
        here.write_bytes(content)
        try:
            use(here)
        except EdgefaceError as error:
            refused += 1
            assert "\n" not in str(error)
        for file in folder.glob("m.gallery*"):
            file.unlink()
    assert refused > 20
