"""What is erased because of its age."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgeface.gallery import Kind
from edgeface.sightings.binding import scrub
from edgeface.sightings.records import Expiry
from edgeface.sightings.rows import WHO, count_erased

if TYPE_CHECKING:
    from edgeface.sightings.store import Sightings

DAY = 86_400.0


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
    with store.file.write() as execute:
        total = "SELECT (SELECT count(*) FROM crop), (SELECT count(*) FROM appearance), " \
                "(SELECT count(*) FROM event)"  # fmt: skip
        (before,) = execute(total)
        # Left behind by a process that was killed.
        execute("UPDATE appearance SET ended = 1 WHERE ended = 0 AND last < ?", (now - DAY,))
        if rules.crops is not None:
            execute("DELETE FROM crop WHERE at < ?", (now - DAY * rules.crops,))
        for days, test in ((rules.known, "IN"), (rules.strangers, "NOT IN")):
            if days is not None:
                execute(
                    f"DELETE FROM appearance WHERE last < ? AND "
                    f"coalesce(given, person, -1) {test} ({{among}})",
                    (now - DAY * days, known),
                )
        # The log tells of people, so it is kept no longer than they are.
        execute(
            "DELETE FROM event WHERE appearance IS NOT NULL "
            "AND appearance NOT IN (SELECT id FROM appearance)"
        )
        if rules.events is not None:
            execute("DELETE FROM event WHERE at < ?", (now - DAY * rules.events,))
        for limit, test in ((rules.per_person, "IS NOT NULL"), (rules.nobodies, "IS NULL")):
            execute(
                "DELETE FROM crop WHERE appearance IN (SELECT id FROM (SELECT a.id, row_number() "
                "OVER (PARTITION BY coalesce(a.given, a.person) ORDER BY c.quality DESC, a.id "
                "DESC) AS place FROM crop c JOIN appearance a ON a.id = c.appearance "
                f"WHERE coalesce(a.given, a.person) {test}) AS ranked WHERE place > ?)",
                (limit,),
            )
        (after,) = execute(total)
        if before != after:
            count_erased(execute)
    for name, had, has in zip(("crops", "appearances", "events"), before, after, strict=True):
        counts[name] = had - has
    forgotten = store.residents.reconcile()
    counts["appearances"] += forgotten
    if before != after and not forgotten:  # else it was rewritten just now
        scrub(store.file)
    return counts
