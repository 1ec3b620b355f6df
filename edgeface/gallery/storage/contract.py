"""What a gallery was made with: the embedding model, its size, and the cipher."""

from __future__ import annotations

import base64
import uuid

from edgeface.errors import GalleryError
from edgeface.gallery.storage.cipher import AesGcm, Cipher, Plain, read_key
from edgeface.gallery.storage.sqlite import Database
from edgeface.gallery.storage.tables import Tables


def agree(
    database: Database, model: str | None, size: int | None, key: bytes | None
) -> tuple[Cipher, str, int]:
    """What a gallery was made with, written if it is new, checked if it is not."""
    place, key = database.place, read_key() if key is None else key
    stored = _stored(database)
    if "model" not in stored:
        if model is None or size is None:
            raise GalleryError(f"{place} is empty: enrol somebody first")
        if key is not None and database.plain.name != Plain.name:
            raise GalleryError(
                f"{place} cannot be encrypted, its server must read the embeddings: encrypt the "
                "server's disk and unset the gallery key"
            )
        with database.transaction() as execute:
            cipher = database.plain if key is None else AesGcm(key)
            tables = Tables(execute, cipher, place)
            tables.advance()  # of several processes that make a gallery, one signs
            if tables.setting("model") is None:
                _sign(tables, cipher, model, size)
        stored = _stored(database)
    if model is not None and model != stored["model"]:
        raise GalleryError(
            f"{place} was made with model {stored['model']}, this is model {model}: use that "
            "model, or enrol everybody again into a new gallery"
        )
    if size is not None and size != int(stored["size"]):
        raise GalleryError(
            f"{place} holds embeddings of size {stored['size']}, this model gives {size}: use the "
            "model it was made with, or enrol everybody again into a new gallery"
        )
    cipher = database.plain
    if stored["cipher"] != cipher.name:
        if key is None:
            raise GalleryError(
                f"{place} is encrypted: set EDGEFACE_GALLERY_KEY or EDGEFACE_GALLERY_KEY_FILE"
            )
        cipher = AesGcm(key)
        cipher.unseal(base64.b64decode(stored["key_check"]), "key_check")
    return cipher, stored["model"], int(stored["size"])


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
