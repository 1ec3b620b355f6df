"""What was done to a gallery, so that it can be undone.

An entry names people and samples by id and holds what the change would lose (an old name, a merged
person's details). `forget` deletes every entry about its person: nothing forgotten can come back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgeface.errors import GalleryError
from edgeface.gallery.records import Person, Provenance
from edgeface.gallery.storage.tables import Tables
from edgeface.gallery.storage.values import moment
from edgeface.types import Kind

KEPT = 10_000  # entries; older ones can no longer be undone


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: `action` is enroll, cluster, grow, stranger, rename, merge, split, ignore, group,
    different or not_this_person."""

    id: int
    created: float
    action: str
    undone: bool


def record(tables: Tables, action: str, payload: dict[str, Any], people: Iterable[int]) -> None:
    """Write one entry about `people` in the open transaction."""
    number = tables.next_id("journal")
    columns, values = "created, action, payload", [time.time(), action]
    values.append(tables.seal_text(json.dumps(payload), "journal.payload", str(number)))
    if number is not None:
        columns, values = columns + ", id", [*values, number]
    marks = ", ".join("?" * len(values))
    ((entry,),) = tables.execute(
        f"INSERT INTO journal ({columns}) VALUES ({marks}) RETURNING id", values
    )
    tables.execute(
        "INSERT INTO journal_person VALUES (?, ?)", [(entry, i) for i in set(people)], many=True
    )
    tables.execute("DELETE FROM journal WHERE id <= ?", (entry - KEPT,))
    tables.entry = int(entry)


def entries(tables: Tables, limit: int) -> list[Entry]:
    """The newest `limit` entries, newest first."""
    rows = tables.execute(
        "SELECT id, created, action, undone FROM journal ORDER BY id DESC LIMIT ?", (limit,)
    )
    return [Entry(int(i), moment(t), str(a), bool(u)) for i, t, a, u in rows]


@dataclass(frozen=True, slots=True)
class Merges:
    """The merges that stand: heir and entry by merged person, of the entries from `oldest` on.
    Older ones are no longer known."""

    heirs: dict[int, tuple[int, int]]
    oldest: int


def merges(tables: Tables) -> Merges:
    """The merges that stand; damaged entries are left out."""
    rows = tables.execute(
        "SELECT id, payload FROM journal WHERE action = 'merge' AND undone = 0 ORDER BY id"
    )
    ((newest,),) = tables.execute("SELECT max(id) FROM journal")
    found: dict[int, tuple[int, int]] = {}
    for entry, payload in rows:
        try:
            content = json.loads(tables.open_text(payload, "journal.payload", str(entry)))
            found[int(content["other"]["id"])] = int(content["into"]), int(entry)
        except (GalleryError, LookupError, TypeError, ValueError, RecursionError):
            continue
    return Merges(found, (newest or 0) - KEPT + 1)


def inherit(tables: Tables, heir: int, person_id: int) -> None:
    """Let the entries about a merged person count as the `heir`'s, so that they are forgotten
    together."""
    tables.execute(
        "INSERT INTO journal_person SELECT journal_id, ? FROM journal_person WHERE person_id = ? "
        "ON CONFLICT DO NOTHING",
        (heir, person_id),
    )


def erase(tables: Tables, person_id: int) -> None:
    """Delete every entry about a person."""
    tables.execute(
        "DELETE FROM journal WHERE id IN "
        "(SELECT journal_id FROM journal_person WHERE person_id = ?)",
        (person_id,),
    )


def undo(tables: Tables, revision: int, entry_id: int | None) -> Entry:
    """Take back one entry (the newest that stands if None); GalleryError when it cannot be."""
    where, values = ("id = ?", (entry_id,)) if entry_id is not None else ("undone = 0", ())
    rows = tables.execute(
        f"SELECT id, created, action, payload, undone FROM journal WHERE {where} "
        "ORDER BY id DESC LIMIT 1",
        values,
    )
    if not rows:
        raise GalleryError("there is nothing to undo: no change stands that was not taken back")
    found, created, action, payload, undone = rows[0]
    if undone:
        raise GalleryError(f"change {found} has already been undone")
    try:
        content = json.loads(tables.open_text(payload, "journal.payload", str(found)))
        _INVERSE[action](tables, content, revision)
    except GalleryError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise GalleryError(
            f"change {found} cannot be undone, its journal entry is damaged: restore a backup, or "
            "put the people right by hand"
        ) from error
    tables.execute("UPDATE journal SET undone = 1 WHERE id = ?", (found,))
    return Entry(int(found), moment(created), str(action), True)


def details(person: Person) -> dict[str, Any]:
    """What `merge` must remember to bring a person back."""
    return {
        "id": person.id,
        "name": person.name,
        "kind": str(person.kind),
        "external_id": person.external_id,
        "metadata": person.metadata,
        "created": person.created,
    }


def _still(tables: Tables, samples: list[int], owner: int) -> list[int]:
    theirs = set(tables.sample_ids(owner))
    return [i for i in samples if i in theirs]


def _free(tables: Tables, name: str) -> None:
    if tables.find(name) is not None:
        raise GalleryError(f"cannot undo: somebody else is called {name!r} now, rename them first")


def _remove_samples(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    person = payload["person"]
    tables.drop_samples(_still(tables, payload["samples"], person), revision)
    if payload.get("created") and not tables.sample_ids(person):
        tables.drop_person(person, revision)


def _remove_many(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    for one in payload["people"]:
        _remove_samples(tables, one, revision)


def _restore_name(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    tables.person(payload["person"])
    _free(tables, payload["old"])
    tables.set_name(payload["person"], payload["old"], Kind(payload["kind"]), revision)
    for provenance, ids in payload["provenance"].items():
        tables.set_provenance(ids, Provenance(provenance))


def _restore_kind(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    person = tables.person(payload["person"])
    tables.set_name(person.id, person.name, Kind(payload["kind"]), revision)


def _restore_group(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    tables.set_group(tables.person(payload["person"]), payload["group"], revision)


def _part_again(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    other = payload["other"]
    _free(tables, other["name"])
    tables.add_person(
        other["name"],
        Kind(other["kind"]),
        revision,
        person_id=other["id"],
        external_id=other["external_id"],
        metadata=other["metadata"],
        created=other["created"],
    )
    moved = _still(tables, payload["samples"], payload["into"])
    tables.move_samples(moved, other["id"], revision)
    for a, b in payload["links"]:
        tables.link_never(a, b)


def _rejoin(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    tables.person(payload["person"])
    moved = _still(tables, payload["samples"], payload["new"])
    tables.move_samples(moved, payload["person"], revision)
    if not tables.sample_ids(payload["new"]):
        tables.drop_person(payload["new"], revision)


def _alike_again(tables: Tables, payload: dict[str, Any], revision: int) -> None:
    one, other = payload["people"]
    if not tables.unlink(one, other):
        raise GalleryError("cannot undo: one of the two was merged since, take that back first")


_INVERSE = {
    "enroll": _remove_samples,
    "cluster": _remove_many,
    "grow": _remove_samples,
    "stranger": _remove_samples,
    "rename": _restore_name,
    "merge": _part_again,
    "split": _rejoin,
    "ignore": _restore_kind,
    "group": _restore_group,
    "different": _alike_again,
    "not_this_person": _rejoin,
}
