"""How often people were there, in a file and on a server."""

from __future__ import annotations

from datetime import timedelta

from gallery_faces import SIZE
from test_sightings import NOW, event
from test_sightings_ties import store, unit  # noqa: F401 - a fixture

from edgeface.sightings import Sightings
from edgeface.sightings.visits import SHOWN, Visits, visits

pytest_plugins = ("gallery_places",)


def test_visits_are_counted_by_who_people_are_now(store: Sightings) -> None:  # noqa: F811
    assert len(unit(1)) == SIZE and visits(store) == {}
    one, two = store.gallery.add_stranger(unit(1)), store.gallery.add_stranger(unit(2))
    ids = {}
    for k in range(1, 9):
        at, camera = NOW + timedelta(minutes=k), "door" if k % 2 else "garden"
        who = (one, one, two, None)[k % 4]
        ids[k] = store.record(event(k, k, "lost", who, unit(k), at=at, camera=camera))[0]
        store.keep_crop(ids[k], b"jpeg", k / 10, at)
    begun = NOW + timedelta(minutes=1)
    first = Visits(4, begun, NOW + timedelta(minutes=8), ("door", "garden"),
                   (ids[8], ids[5], ids[4], ids[1]))  # fmt: skip
    second = Visits(2, NOW + timedelta(minutes=2), NOW + timedelta(minutes=6), ("garden",),
                    (ids[6], ids[2]))  # fmt: skip
    assert visits(store) == {one.id: first, two.id: second}
    assert visits(store, two.id) == {two.id: second}
    store.people.merge(one.id, [two.id])
    both = visits(store)
    assert list(both) == [one.id] and both == visits(store, one.id)
    assert (both[one.id].count, both[one.id].last) == (6, first.last)
    assert both[one.id].images == (ids[8], ids[6], ids[5], ids[4]) and SHOWN == 4
    shown = both[one.id].to_dict()
    assert shown["first"] == "2026-03-01T09:31:00.000Z" and shown["cameras"] == ["door", "garden"]
