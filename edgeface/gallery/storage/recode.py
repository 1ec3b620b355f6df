"""Writing every value of a gallery anew: to encrypt a plain one, or under a better binding."""

from __future__ import annotations

from edgeface.errors import GalleryError
from edgeface.gallery.storage.cipher import Cipher
from edgeface.gallery.storage.database import Execute
from edgeface.gallery.storage.tables import Tables


def recode(execute: Execute, old: Cipher, new: Cipher, place: str) -> None:
    """Open every value with `old` and seal it with `new`, in the open transaction."""
    was, becomes = Tables(execute, old, place), Tables(execute, new, place)
    for person, name, external_id, metadata in execute(
        "SELECT id, name, external_id, metadata FROM person"
    ):
        owner = str(person)
        shown = was.open_text(name, "person.name", owner)
        texts: list[str | None] = [
            becomes.seal_text(shown, "person.name", owner),
            new.digest(shown),
        ]
        for value, column in ((external_id, "external_id"), (metadata, "metadata")):
            texts.append(_text(was, becomes, value, f"person.{column}", owner))
        execute(
            "UPDATE person SET name = ?, name_key = ?, external_id = ?, metadata = ? WHERE id = ?",
            (*texts, person),
        )
    for sample, person in execute("SELECT id, person_id FROM sample"):
        ((*values,),) = execute(
            "SELECT embedding, source, crop FROM sample WHERE id = ?", (sample,)
        )
        owner = f"{sample}/{person}"
        try:
            sealed = becomes.recode(was, (values[0], values[1], values[2]), owner, owner)
        except GalleryError:  # damaged: it was left out before and will be
            continue
        execute(
            "UPDATE sample SET embedding = ?, source = ?, crop = ? WHERE id = ?", (*sealed, sample)
        )
    for entry, payload in execute("SELECT id, payload FROM journal"):
        text = _text(was, becomes, payload, "journal.payload", str(entry))
        execute("UPDATE journal SET payload = ? WHERE id = ?", (text, entry))
    becomes.set("cipher", new.name)
    becomes.set("key_check", becomes.seal_text("edgeface", "key_check"))


def _text(was: Tables, becomes: Tables, value: str | None, column: str, owner: str) -> str | None:
    if value is None:
        return None
    return becomes.seal_text(was.open_text(value, column, owner), column, owner)
