"""What ties sightings to their gallery: its identity, and the cipher that seals both."""

from __future__ import annotations

import logging
from typing import Any

from edgeface.errors import GalleryError
from edgeface.gallery import Gallery
from edgeface.gallery.storage.cipher import Cipher, Plain
from edgeface.sightings.rows import Execute, Rows

log = logging.getLogger(__name__)

TRIES = 3  # rewritings until nothing was deleted meanwhile
_ERASED = "SELECT value FROM about WHERE key = 'erased'"

# Table, column, the columns that say whose value it is, how these are written.
SEALED = (
    ("appearance", "template", ("run", "track"), "appearance.template"),
    ("crop", "jpeg", ("appearance",), "crop.jpeg"),
    ("event", "body", ("id",), "event.body"),
)


def bind(rows: Rows, gallery: Gallery) -> None:
    """Tie new rows to a gallery; make sure that others are of this one, and sealed with its key.

    Raises:
        GalleryError: they are of another gallery, or of one that was encrypted and is not.
    """
    cipher, resealed = gallery.cipher, False
    with rows.write() as execute:
        about = dict(execute("SELECT key, value FROM about"))
        if about.setdefault("gallery", gallery.identity) != gallery.identity:
            raise GalleryError(
                f"{rows.place} holds the sightings of another gallery than {gallery.place}, in "
                "which its people are others: move it away"
            )
        name = about.setdefault("cipher", cipher.name)
        if name != cipher.name:
            if name != Plain.name:
                raise GalleryError(
                    f"{rows.place} is encrypted and {gallery.place} is not: move it away"
                )
            _reseal(execute, cipher)
            note(execute, "scrub", "due")
            resealed = True
        note(execute, "gallery", gallery.identity)
        note(execute, "cipher", cipher.name)
    if resealed or about.get("scrub") == "due":
        scrub(rows)


def agree(execute: Execute, gallery: Gallery, place: str) -> None:
    """GalleryError if the gallery was encrypted since the rows were opened."""
    ((name,),) = execute("SELECT value FROM about WHERE key = 'cipher'")
    if name != gallery.cipher.name:
        raise GalleryError(f"{place} has been encrypted meanwhile: open it again with its key")


def scrub(rows: Rows) -> None:
    """Remove what deleted rows left behind. Where that cannot be, it is said, and tried again when
    the rows are opened."""
    try:
        for _ in range(TRIES):
            with rows.read() as execute:
                before = execute(_ERASED)
            rows.erase()
            with rows.write() as execute:
                if execute(_ERASED) == before:
                    note(execute, "scrub", "done")
                    return
        log.warning("traces of what was deleted may stay on the disk: more is deleted all the time")
    except GalleryError as error:
        log.warning("traces of what was deleted may stay on the disk: %s", error)


def note(execute: Execute, key: str, value: str) -> None:
    """Write a line about the rows."""
    execute(
        "INSERT INTO about (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def owner(*ids: Any) -> str:
    """Whose a sealed value is."""
    return "/".join(map(str, ids))


def _reseal(execute: Execute, cipher: Cipher) -> None:
    for table, column, ids, what in SEALED:
        names = ", ".join(ids)
        where = " AND ".join(f"{name} = ?" for name in ids)
        for key in execute(f"SELECT {names} FROM {table} WHERE {column} IS NOT NULL"):
            ((value,),) = execute(f"SELECT {column} FROM {table} WHERE {where}", key)
            sealed = cipher.seal(bytes(value), what, owner(*key))
            execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (sealed, *key))
