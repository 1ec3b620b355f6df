"""An encrypted gallery says nothing to who has no key."""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path

import pytest
from gallery_faces import MODEL, SIZE, faces, names

from edgeface.errors import GalleryError
from edgeface.gallery import Flaw, Gallery, audit
from edgeface.gallery.index import mirror
from edgeface.gallery.storage import contract
from edgeface.gallery.storage.cipher import AesGcm, AesGcmOfColumns, parse_key

pytest_plugins = ("gallery_places",)
pytest.importorskip("cryptography")
KEY = bytes(range(32))


@pytest.fixture
def gallery(path: Path):
    with Gallery.open(path, model=MODEL, size=SIZE, key=KEY) as opened:
        yield opened


def test_nothing_personal_is_readable_in_the_file(gallery: Gallery, path: Path) -> None:
    gallery.enroll(
        "Alice Example",
        faces(1, 2),
        sources=["alice-passport.jpg"] * 2,
        crops=[b"A-CROP-OF-ALICE"] * 2,
        external_id="employee-7",
        metadata={"room": "attic"},
    )
    gallery.rename("Alice Example", "Alice Renamed")
    content = path.read_bytes()
    marks = [b"Alice", b"passport", b"A-CROP", b"employee", b"attic"]
    marks += [row.tobytes() for row in faces(1, 2)]
    assert not [mark for mark in marks if mark in content]


def test_everything_works_as_without_encryption(gallery: Gallery, path: Path) -> None:
    gallery.enroll("Alice", faces(1, 2), crops=[b"crop", None], external_id="e", metadata={"a": 1})
    gallery.enroll("Bob", faces(2))
    gallery.rename("Bob", "Robert")
    gallery.merge("Alice", "Robert")
    gallery.undo()
    with Gallery.open(path, key=KEY) as other:
        assert names(other) == ["Alice", "Robert"]
        assert other.search(faces(1, 2)[1])[0].name == "Alice"
        alice = other.person("Alice")
        assert (alice.external_id, alice.metadata) == ("e", {"a": 1})
        assert other.samples("Alice")[0].crop == b"crop"
        other.forget("Alice")
    assert names(gallery) == ["Robert"]


def test_without_the_key_it_stays_shut(gallery: Gallery, path: Path) -> None:
    with pytest.raises(GalleryError, match="is encrypted: set EDGEFACE_GALLERY_KEY"):
        Gallery.open(path)
    with pytest.raises(GalleryError, match="key the gallery was made with"):
        Gallery.open(path, key=bytes(32))


@pytest.mark.parametrize("text", [KEY.hex(), base64.b64encode(KEY).decode(), KEY.hex() + "\n"])
def test_the_key_comes_from_the_environment(
    gallery: Gallery, path: Path, folder: Path, monkeypatch, text: str
) -> None:
    gallery.enroll("Alice", faces(1))
    with monkeypatch.context() as patch:
        patch.setenv("EDGEFACE_GALLERY_KEY", text)
        with Gallery.open(path) as other:
            assert names(other) == ["Alice"]
    file = folder / "key"
    file.write_text(text)
    monkeypatch.setenv("EDGEFACE_GALLERY_KEY_FILE", str(file))
    with Gallery.open(path) as other:
        assert names(other) == ["Alice"]
    file.unlink()
    with pytest.raises(GalleryError, match="cannot be read"):
        Gallery.open(path)


@pytest.mark.parametrize("text", ["", "short", "zz" * 32, "A" * 44])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(GalleryError, match="32 random bytes"):
        parse_key(text, "somewhere")


def test_values_are_bound_to_their_column_and_unchanged() -> None:
    cipher = AesGcm(KEY)
    sealed = cipher.seal(b"value", "person.name")
    assert cipher.unseal(sealed, "person.name") == b"value"
    assert cipher.seal(b"value", "person.name") != sealed
    for value, column in [
        (sealed, "sample.crop"),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), "person.name"),
        (b"", "person.name"),
    ]:
        with pytest.raises(GalleryError, match="key"):
            cipher.unseal(value, column)


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_row_cannot_be_given_to_somebody_else(gallery: Gallery, path: Path) -> None:
    """By somebody without the key, who can write to the file."""
    gallery.enroll("Alice", faces(1, 2), crops=[b"a"] * 2)
    gallery.enroll("Bob", faces(2, 2))
    gallery.close()
    change(path, "UPDATE sample SET person_id = 3 - person_id")
    with Gallery.open(path, key=KEY) as opened:
        assert opened.search(faces(2, 2)[0]) == []
        assert opened.samples("Alice") == []
        assert len([f for f in audit(opened, 0.5) if f.flaw is Flaw.DAMAGED]) == 4
    change(
        path,
        "UPDATE sample SET person_id = 3 - person_id",
        "UPDATE sample SET embedding = (SELECT embedding FROM sample WHERE id = 3) WHERE id = 1",
    )
    with Gallery.open(path, key=KEY) as opened:
        assert [m.name for m in opened.search(faces(2, 2)[0], 1)] == ["Bob"]
        assert [s.id for s in opened.samples("Alice")] == [2]
    change(
        path,
        "CREATE TABLE t AS SELECT * FROM person",
        "UPDATE person SET name_key = id || name_key",
        "UPDATE person SET name = (SELECT name FROM t WHERE t.id = 3 - person.id), "
        "name_key = (SELECT name_key FROM t WHERE t.id = 3 - person.id)",
    )
    with Gallery.open(path, key=KEY) as opened:
        assert opened.people() == []
        assert opened.search(faces(2, 2)[0]) == []


def test_changes_of_owner_are_sealed_anew(gallery: Gallery, path: Path) -> None:
    gallery.enroll("Alice", faces(1, 2), sources=["a", None], crops=[b"crop", None])
    gallery.enroll("Bob", faces(2))
    gallery.merge("Bob", "Alice")
    parted = gallery.split("Bob", [1])
    gallery.rename(parted.name, "Cleo")
    with Gallery.open(path, key=KEY) as opened:
        (sample,) = opened.samples("Cleo")
        assert (sample.source, sample.crop) == ("a", b"crop")
        assert opened.search(faces(1, 2)[0])[0].name == "Cleo"
        assert opened.search(faces(1, 2)[1])[0].name == "Bob"
        for _ in range(3):
            opened.undo()
        assert names(opened) == ["Alice", "Bob"]
        assert [s.crop for s in opened.samples("Alice")] == [b"crop", None]


@pytest.fixture
def older(path: Path, monkeypatch) -> Path:
    """A gallery as it was encrypted before rows were bound."""
    with monkeypatch.context() as patch:
        patch.setattr(contract, "AesGcm", AesGcmOfColumns)
        with Gallery.open(path, model=MODEL, size=SIZE, key=KEY) as opened:
            opened.enroll("Alice", faces(1, 2), crops=[b"c", None], metadata={"a": 1})
            opened.enroll("Bob", faces(2), external_id="b", sources=["b.jpg"])
    return path


def test_an_older_encrypted_gallery_is_bound_when_opened(older: Path) -> None:
    assert stored(older, "cipher") == "aes-256-gcm"
    with pytest.raises(GalleryError, match="key the gallery was made with"):
        Gallery.open(older, key=bytes(32))
    with Gallery.open(older, key=KEY) as opened:
        assert names(opened) == ["Alice", "Bob"]
        assert opened.person("Bob").external_id == "b"
        assert opened.samples("Bob")[0].source == "b.jpg"
        assert opened.samples("Alice")[0].crop == b"c"
        assert opened.search(faces(1, 2)[1])[0].name == "Alice"
    assert stored(older, "cipher") == "aes-256-gcm-rows"
    change(older, "UPDATE sample SET person_id = 3 - person_id")
    with Gallery.open(older, key=KEY) as opened:
        assert opened.search(faces(2)[0]) == []
    change(older, "UPDATE sample SET person_id = 3 - person_id")
    with Gallery.open(older, key=KEY) as opened:
        opened.undo()
        assert names(opened) == ["Alice"]


def stored(path: Path, setting: str) -> str:
    connection = sqlite3.connect(path)
    ((value,),) = connection.execute("SELECT value FROM setting WHERE key = ?", (setting,))
    connection.close()
    return str(value)


def test_a_key_and_a_plain_gallery_do_not_go_together(local: Gallery, path: Path, monkeypatch):
    local.enroll("Alice", faces(1), sources=["passport.jpg"])
    with pytest.raises(GalleryError, match=r"not encrypted although.*gallery encrypt"):
        Gallery.open(path, key=KEY)
    monkeypatch.setenv("EDGEFACE_GALLERY_KEY", KEY.hex())
    with pytest.raises(GalleryError, match="not encrypted although"):
        Gallery.open(path, model=MODEL, size=SIZE)


def test_a_plain_gallery_is_encrypted_in_place(
    local: Gallery, path: Path, folder: Path, monkeypatch
) -> None:
    local.enroll("Alice", faces(1, 2), sources=["passport.jpg"] * 2, metadata={"room": "attic"})
    local.enroll("Bob", faces(2))
    local.rename("Bob", "Robert")
    marks = [b"Alice", b"Robert", b"Bob", b"passport", b"attic"]
    marks += [row.tobytes() for row in faces(1, 2)]
    with pytest.raises(GalleryError, match="no key to encrypt"):
        Gallery.encrypt(path)
    Gallery.encrypt(path, key=KEY)
    content = b"".join(p.read_bytes() for p in folder.iterdir())
    assert not [mark for mark in marks if mark in content]
    with pytest.raises(GalleryError, match="encrypted meanwhile"):
        local.enroll("Carol", faces(3))
    with Gallery.open(path, key=KEY) as opened:
        assert names(opened) == ["Alice", "Robert"]
        assert opened.search(faces(1, 2)[0])[0].name == "Alice"
        opened.undo()
        assert names(opened) == ["Alice", "Bob"]
    with pytest.raises(GalleryError, match="encrypted already"):
        Gallery.encrypt(path, key=KEY)


def test_encrypting_leaves_no_readable_index(path: Path, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(mirror, "EXACT_LIMIT", 100)
    monkeypatch.setattr(mirror, "SAVE_AFTER", 1)
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Crowd", faces(1, 200))
        gallery.settle()
    Gallery.encrypt(path, key=KEY)
    mark = faces(1, 200)[7].tobytes()
    assert not [p for p in folder.iterdir() if mark in p.read_bytes()]
