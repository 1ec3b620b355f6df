"""Does the evidence of several cameras add up? Videos of one person as cameras of one visit.

Every video of the YTF sequences (three frames each) is a camera's track; the videos of one person
are a visit. The first LFW picture of a person is enrolled. At an FPIR of 1 %, set for each way by
the visits of strangers, a visit is identified as the service does it, by the sum of its tracks and
the best of them (`sum`), or by one camera: the better of the first two, whichever had more luck, as
if there were no other (`camera`), the track with most weight (`weight`), or whichever track is most
similar to somebody enrolled, as if every camera could give the name (`any`). `template` is the
cosine of the sum alone. `gain_camera`, `gain_weight` and `gain_any` are what `sum` adds to each,
percent points; `gain` is the smallest of them. Mean over random halves of the people enrolled, the
others are strangers; people with two videos or more.

`fpir_same` is the share of strangers' visits that get a name at the threshold at which one percent
of strangers' single tracks (those with most weight) do: whether a threshold for tracks holds for
visits; `fpir_same_any` if every camera may name. `order` is the largest change of a visit's numbers
when tracks come in another order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.video import portraits, read_sequences, template
from edgeface.aggregate import Aggregator
from edgeface.embed import DEFAULT, Embedder
from edgeface.metrics import tpir_at_fpir
from edgeface.sightings.joined import fused, summed, unit
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


def whole(tracks: list[Template], people: Array) -> Array:
    """How alike a visit of these tracks is to each of `people` (n, d), as the service has it."""
    return fused(total(tracks), np.stack([track.embedding for track in tracks]), people)


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
    each = [np.stack([t.embedding for t in tracks[p]]) @ gallery.T for p in people]
    heaviest = [int(np.argmax([t.weight for t in tracks[p]])) for p in people]
    ways = {
        "sum": np.stack([whole(tracks[p], gallery) for p in people]),
        "template": np.stack([total(tracks[p]) for p in people]) @ gallery.T,
        "first": np.stack([rows[0] for rows in each]),
        "second": np.stack([rows[1] for rows in each]),
        "weight": np.stack([rows[i] for rows, i in zip(each, heaviest, strict=True)]),
        "any": np.stack([rows.max(axis=0) for rows in each]),
    }
    rng, shares = np.random.default_rng(0), {way: list[float]() for way in ways}
    same = {way: list[float]() for way in ("sum", "any")}
    for _ in range(HALVES):
        enrolled = rng.permutation(len(people)) < len(people) // 2
        for way, similarity in ways.items():
            shares[way].append(tpir(similarity, person, enrolled))
        strange = {way: ways[way][~enrolled][:, enrolled].max(axis=1) for way in (*same, "weight")}
        limit = np.quantile(strange["weight"], 1 - FPIR, method="higher")
        for way, named in same.items():
            named.append(float((strange[way] > limit).mean()))
    mean = {way: float(np.mean(each)) for way, each in shares.items()}
    mean["camera"] = max(mean.pop("first"), mean.pop("second"))
    gains = {way: mean["sum"] - mean[way] for way in ("camera", "weight", "any")}
    order = max(
        float(np.abs(whole(tracks[p], gallery) - whole(tracks[p][::-1], gallery)).max())
        for p in people
    )
    return {
        "service.visits.people": float(len(people)),
        "service.visits.videos": float(sum(len(tracks[p]) for p in people)),
        **{f"service.visits.{way}": share for way, share in mean.items()},
        **{f"service.visits.gain_{way}": gain for way, gain in gains.items()},
        "service.visits.gain": min(gains.values()),
        "service.visits.fpir_same": float(np.mean(same["sum"])),
        "service.visits.fpir_same_any": float(np.mean(same["any"])),
        "service.visits.order": order,
    }
