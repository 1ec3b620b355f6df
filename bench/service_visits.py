"""Does the evidence of several cameras add up? Videos of one person as cameras of one visit.

Every video of the YTF sequences (three frames each) is a camera's track; the videos of one person
are a visit. The first LFW picture of a person is enrolled. At an FPIR of 1 %, set for each way by
the visits of strangers, a visit is identified by the sum of its tracks as the service adds them
(`sum`), by the track with most weight alone (`single`, `gain_single` is what the sum adds to it),
or by whichever track is most similar to somebody enrolled (`best`, as if each camera could give the
name). `gain` is `sum` less the better of these two, percent points. Mean over random halves of the
people enrolled, the others are strangers; people with two videos or more. `order` is the largest
change of a template's number when tracks come in another order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.video import portraits, read_sequences, template
from edgeface.aggregate import Aggregator
from edgeface.embed import DEFAULT, Embedder
from edgeface.metrics import tpir_at_fpir
from edgeface.sightings.joined import summed, unit
from edgeface.types import Array, Template

FPIR, HALVES = 1e-2, 100


def total(tracks: list[Template]) -> Array:
    """The template of a visit, as the service makes it."""
    found = None
    for track in tracks:
        found = summed(found, track.embedding, track.weight)
    row = None if found is None else unit(found)
    assert row is not None
    return row


def tpir(similarity: Array, person: NDArray[np.int64], enrolled: NDArray[np.bool_]) -> float:
    """Share of visits (v, people) of enrolled people under their name at `FPIR`."""
    open_set = np.where(enrolled[None], similarity, -1.0)
    best, mated = open_set.max(axis=1), enrolled[person]
    right = open_set.argmax(axis=1) == person
    return 100 * tpir_at_fpir(best[mated], right[mated], best[~mated], FPIR)


def visits(shared: Path, every: int) -> dict[str, float]:
    """The figures; see the module's text."""
    embedder = Embedder.load(DEFAULT)
    sequences = read_sequences(shared / "data/sequences/ytf", embedder, every)
    faces = portraits(
        shared / "data/lfw/aligned112", sorted({s.person for s in sequences}), embedder
    )
    aggregator = Aggregator.of(embedder.card)
    tracks: dict[str, list[Template]] = {}
    for sequence in sequences:
        found = template(aggregator, sequence)
        if sequence.person in faces and found.weight > 0:
            tracks.setdefault(sequence.person, []).append(found)
    people = [p for p, own in tracks.items() if len(own) > 1]
    gallery = np.stack([faces[p] for p in people])
    person = np.arange(len(people))
    single = (
        np.stack([max(tracks[p], key=lambda t: t.weight).embedding for p in people]) @ gallery.T
    )
    each = [np.stack([t.embedding for t in tracks[p]]) @ gallery.T for p in people]
    ways = {
        "sum": np.stack([total(tracks[p]) for p in people]) @ gallery.T,
        "single": single,
        "best": np.stack([rows.max(axis=0) for rows in each]),
    }
    rng, shares = np.random.default_rng(0), {way: list[float]() for way in ways}
    for _ in range(HALVES):
        enrolled = rng.permutation(len(people)) < len(people) // 2
        for way, similarity in ways.items():
            shares[way].append(tpir(similarity, person, enrolled))
    mean = {way: float(np.mean(found)) for way, found in shares.items()}
    order = max(float(np.abs(total(tracks[p]) - total(tracks[p][::-1])).max()) for p in people)
    return {
        "service.visits.people": float(len(people)),
        "service.visits.videos": float(sum(len(tracks[p]) for p in people)),
        **{f"service.visits.{way}": share for way, share in mean.items()},
        "service.visits.gain_single": mean["sum"] - mean["single"],
        "service.visits.gain": mean["sum"] - max(mean["single"], mean["best"]),
        "service.visits.order": order,
    }
