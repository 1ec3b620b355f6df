"""What a gallery was made with: the embedding model, its size, and the cipher."""

from __future__ import annotations

import base64
import uuid

from edgeface.errors import GalleryError
from edgeface.gallery.storage.cipher import AesGcm, AesGcmOfColumns, Cipher, Plain, read_key
from edgeface.gallery.storage.database import Database
from edgeface.gallery.storage.recode import recode
from edgeface.gallery.storage.tables import Tables

WIDEST = 1 << 16  # no embedder gives as many numbers


def agree(
    database: Database, model: str | None, size: int | None, key: bytes | None
) -> tuple[Cipher, str, int]:
    """What a gallery was made with, written if it is new, checked if it is not."""
    place, key = database.place, read_key() if key is None else key
    if key is not None and database.plain.name != Plain.name:
        raise GalleryError(
            f"{place} cannot be encrypted, its server must read the embeddings: encrypt the "
            "server's disk and unset the gallery key"
        )
    stored = _stored(database)
    if "model" not in stored:
        if model is None or size is None:
            raise GalleryError(f"{place} is empty: enrol somebody first")
        with database.transaction() as execute:
            cipher = database.plain if key is None else AesGcm(key)
            tables = Tables(execute, cipher, place)
            tables.advance()  # of several processes that make a gallery, one signs
            if tables.setting("model") is None:
                _sign(tables, cipher, model, size)
        stored = _stored(database)
    if "model" not in stored:
        raise GalleryError(f"{place} is damaged, it does not say its model: restore a backup")
    there = _size(stored.get("size"), place)
    if model is not None and model != stored["model"]:
        raise GalleryError(
            f"{place} was made with model {stored['model']}, this is model {model}: use that "
            "model, or enrol everybody again into a new gallery"
        )
    if size is not None and size != there:
        raise GalleryError(
            f"{place} holds embeddings of size {there}, this model gives {size}: use the "
            "model it was made with, or enrol everybody again into a new gallery"
        )
    return _cipher(database, stored, key), stored["model"], there


def encrypt(database: Database, key: bytes) -> None:
    """Encrypt a gallery that is not, in place; GalleryError if it is, or cannot be."""
    stored = _stored(database)
    if database.plain.name != Plain.name:
        raise GalleryError(f"{database.place} cannot be encrypted: encrypt the disk of its server")
    if "model" not in stored:
        raise GalleryError(f"{database.place} is empty: enrol somebody first")
    if stored.get("cipher") != database.plain.name:
        raise GalleryError(f"{database.place} is encrypted already")
    with database.transaction() as execute:
        recode(execute, database.plain, AesGcm(key), database.place)
        tables = Tables(execute, database.plain, database.place)
        tables.advance()
        tables.set("scrub", "due")  # what was readable is still in the file


def agree_on_cipher(tables: Tables, cipher: Cipher, place: str) -> None:
    """GalleryError if the gallery has been encrypted since it was opened."""
    if tables.setting("cipher") != cipher.name:
        raise GalleryError(f"{place} has been encrypted meanwhile: open it again with its key")


def _cipher(database: Database, stored: dict[str, str], key: bytes | None) -> Cipher:
    place, name = database.place, stored.get("cipher")
    if name == database.plain.name:
        if key is not None:
            raise GalleryError(
                f"{place} is not encrypted although a key was given: encrypt it with "
                "`edgeface gallery encrypt` (`Gallery.encrypt`), or give no key"
            )
        return database.plain
    if name not in {AesGcm.name, AesGcmOfColumns.name}:
        raise GalleryError(f"{place} is damaged or of a newer edgeface: its cipher is {name!r}")
    if key is None:
        raise GalleryError(
            f"{place} is encrypted: set EDGEFACE_GALLERY_KEY or EDGEFACE_GALLERY_KEY_FILE"
        )
    cipher = AesGcm(key) if name == AesGcm.name else AesGcmOfColumns(key)
    try:
        check = base64.b64decode(stored["key_check"])
    except (KeyError, ValueError) as error:
        raise GalleryError(f"{place} is damaged, it has no key check: restore a backup") from error
    cipher.unseal(check, "key_check")
    if name == AesGcmOfColumns.name:
        with database.transaction() as execute:
            tables = Tables(execute, cipher, place)
            if tables.setting("cipher") == name:  # another process may have been faster
                recode(execute, cipher, AesGcm(key), place)
                tables.advance()
        cipher = AesGcm(key)
    return cipher


def _size(text: str | None, place: str) -> int:
    try:
        size = int(text or "")
    except ValueError:
        size = 0
    if not 0 < size <= WIDEST:
        raise GalleryError(f"{place} is damaged, its embedding size is {text!r}: restore a backup")
    return size


def _stored(database: Database) -> dict[str, str]:
    with database.snapshot() as execute:
        return Tables(execute, database.plain, database.place).settings()


def _sign(tables: Tables, cipher: Cipher, model: str, size: int) -> None:
    """Write what a new gallery is made with."""
    tables.set("uuid", str(uuid.uuid4()))
    tables.set("model", model)
    tables.set("size", str(size))
    tables.set("cipher", cipher.name)
    tables.set("key_check", tables.seal_text("edgeface", "key_check"))
