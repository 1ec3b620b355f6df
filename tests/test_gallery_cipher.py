"""An encrypted gallery says nothing to who has no key."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from gallery_faces import MODEL, SIZE, faces, names

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.gallery.storage.cipher import AesGcm, parse_key

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
