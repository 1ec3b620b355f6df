"""What is erased because of its age."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgeface.gallery import Kind
from edgeface.sightings.binding import scrub
from edgeface.sightings.records import Expiry
from edgeface.sightings.rows import WHO, erase_by_steps

if TYPE_CHECKING:
    from edgeface.sightings.store import Sightings

DAY = 86_400.0
CROPS = "DELETE FROM crop WHERE appearance IN ({among})"
EVENTS = "DELETE FROM event WHERE appearance IN ({among})"
APPEARANCES = "DELETE FROM appearance WHERE id IN ({among})"


def expire(store: Sightings, now: float, rules: Expiry) -> dict[str, int]:
    """See `Sightings.expire`."""
    counts = {"crops": 0, "appearances": 0, "events": 0, "strangers": 0}
    if rules.strangers is not None:
        limit = now - DAY * rules.strangers
        with store.file.read() as execute:
            held = execute(f"SELECT DISTINCT {WHO} FROM appearance WHERE last >= ?", (limit,))
        moment = store.residents.now()
        recent = [who.id for (i,) in held if (who := moment.of(i)) is not None]
        counts["strangers"] = store.gallery.forget_strangers(limit, spared=recent)
    known = json.dumps(
        [*store.residents.ids(kind=Kind.KNOWN), *store.residents.ids(kind=Kind.IGNORED)]
    )
    file = store.file
    with file.write() as execute:  # left behind by a process that was killed
        execute("UPDATE appearance SET ended = 1 WHERE ended = 0 AND last < ?", (now - DAY,))

    def found(statement: str, *values: Any) -> list[int]:
        with file.read() as execute:
            return [i for (i,) in execute(statement, values)]

    if rules.crops is not None:
        crops = found("SELECT appearance FROM crop WHERE at < ?", now - DAY * rules.crops)
        counts["crops"] += sum(erase_by_steps(file, crops, CROPS))
    for days, test in ((rules.known, "IN"), (rules.strangers, "NOT IN")):
        if days is not None:
            rows = found(
                f"SELECT id FROM appearance WHERE last < ? AND "
                f"coalesce(given, person, -1) {test} ({{among}})",
                now - DAY * days, known,
            )  # fmt: skip
            # The log tells of people, so it is kept no longer than they are.
            gone = erase_by_steps(file, rows, CROPS, EVENTS, APPEARANCES)
            for name, count in zip(("crops", "events", "appearances"), gone, strict=True):
                counts[name] += count
    if rules.events is not None:
        events = found("SELECT seq FROM event WHERE at < ?", now - DAY * rules.events)
        counts["events"] += sum(
            erase_by_steps(file, events, "DELETE FROM event WHERE seq IN ({among})")
        )
    for limit, test in ((rules.per_person, "IS NOT NULL"), (rules.nobodies, "IS NULL")):
        worse = found(
            "SELECT id FROM (SELECT a.id, row_number() "
            "OVER (PARTITION BY coalesce(a.given, a.person) ORDER BY c.quality DESC, a.id "
            "DESC) AS place FROM crop c JOIN appearance a ON a.id = c.appearance "
            f"WHERE coalesce(a.given, a.person) {test}) AS ranked WHERE place > ?",
            limit,
        )
        counts["crops"] += sum(erase_by_steps(file, worse, CROPS))
    forgotten = store.residents.reconcile()
    erased = any(counts[name] for name in ("crops", "appearances", "events"))
    counts["appearances"] += forgotten
    if erased and not forgotten:  # else it was rewritten just now
        scrub(file)
    return counts
