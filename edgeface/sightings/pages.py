"""Which appearances a page shows, found in an index alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgeface.errors import GalleryError
from edgeface.sightings.rows import WHO

SINGLY = 60  # people asked for one by one, well below the parts that SQLite allows a statement


def newest(
    given: Mapping[str, Sequence[Any]], people: Sequence[int] | None, nobody: bool, limit: int
) -> tuple[str, list[Any]]:
    """The statement, with its values, for the ids of the newest `limit` appearances under the
    conditions `given` with their values: of some `people` (stored ids; None: of anybody), and of
    `nobody` if that is asked for.

    A few people are asked for one by one, each in the order of the index. For many, that would go
    through all of theirs or, in the order of time, through all of others.
    """
    if people is None:
        return _part([], given, limit)
    if len(people) <= SINGLY:
        who: list[tuple[str, list[Any]]] = [(f"{WHO} = ?", [i]) for i in people]
    else:
        who = [(f"{WHO} IN ({{among}})", [json.dumps(list(people))])]
    if nobody:
        who.append((f"{WHO} IS NULL", []))
    parts, values = [], list[Any]()
    for one in who:
        part, its = _part([one], given, limit, "id, last")
        parts.append(f"SELECT id, last FROM ({part}) AS part")
        values += its
    if not parts:
        return "SELECT id FROM appearance WHERE 1 = 0", []
    several = " UNION ALL ".join(parts)
    statement = f"SELECT id FROM ({several}) AS parts ORDER BY last DESC, id DESC LIMIT ?"
    return f"SELECT id FROM ({statement}) AS newest", [*values, limit]


def place_of(cursor: str) -> tuple[float, int]:
    """Time and id of the last appearance of the page before; GalleryError if it names none."""
    last, _, number = cursor.partition("~")
    try:
        return float(last), int(number)
    except ValueError:
        raise GalleryError(f"{cursor!r} is no cursor: give that of the page before") from None


def _part(
    who: Sequence[tuple[str, list[Any]]],
    given: Mapping[str, Sequence[Any]],
    limit: int,
    columns: str = "id",
) -> tuple[str, list[Any]]:
    conditions = [*who, *given.items()]
    where = " AND ".join(condition for condition, _ in conditions) or "1 = 1"
    values = [value for _, its in conditions for value in its]
    return (
        f"SELECT {columns} FROM (SELECT id, last FROM appearance WHERE {where} "
        "ORDER BY last DESC, id DESC LIMIT ?) AS newest",
        [*values, limit],
    )
