"""The default threshold of an embedder, and what else pairs of strangers say of it, as its card
states it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.calibrate import calibrate
from edgeface.document import Json
from edgeface.errors import EdgefaceError
from edgeface.metrics import Interval, tar_at_far, threshold_at_far
from edgeface.models import FileRef, Group, Impostors, InputSpec, ModelCard, digest
from edgeface.types import Threshold
from export.data import Pack
from export.protocols.identities import Embed
from export.protocols.pictures import shrink_all

# Fewer say nothing: of 100 pairs the rule of three gives a rate of 3 %.
FEWEST_PEOPLE, FEWEST_PAIRS = 4, 100
UNPROTECTED = "; it does not hold inside every group:"


def telling(data: Pack, rows: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n, n) of two pictures among `rows`: whether they show one person, and whether they say
    anything; relatives resemble each other and count neither way."""
    person, family = data.identity[rows], data.families()[rows]
    same = person[:, None] == person[None]
    told = same | (family[:, None] != family[None])
    np.fill_diagonal(told, False)
    return same, told


def held_out_pairs(
    data: Pack, embeddings: NDArray[np.float32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cosine and truth of every pair among `rows` that says something; their embeddings are given
    in that order."""
    same, told = telling(data, rows)
    pairs = np.triu(told)
    return (embeddings @ embeddings.T)[pairs], same[pairs]


def small_probe_tar(
    data: Pack, embed: Embed, rows: NDArray[np.int64], clean: NDArray[np.float32]
) -> float:
    """TAR at FAR 1e-3 of `rows` shrunk to 24 pixels against the other pictures, whose embeddings
    are `clean`; nan where too few people have a second picture."""
    same, told = telling(data, rows)
    if not same[told].any():
        return float("nan")
    similarity = embed(shrink_all(np.asarray(data.images[rows]), 24)) @ clean.T
    return tar_at_far(similarity[told], same[told], 1e-3)


def rounded(value: Any) -> Any:
    """Six digits of every number: a card is read by people."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Interval):
        return Interval(*(rounded(v) for v in astuple(value)))
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return type(value)(map(rounded, value)) if isinstance(value, list | tuple) else value


def rate(pairs: int) -> float:
    """The FPIR a table of so many impostor pairs supports: 1e-3, or the rule of three's."""
    return max(1e-3, 3.0 / max(1, pairs))


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What pairs of strangers say of an embedder: its default `threshold` and in words how it was
    found, how alike strangers are, figures, and the `size` of an embedding."""

    threshold: float
    derivation: str
    impostors: Impostors
    metrics: dict[str, Json]
    size: int


def measure(data: Pack, embed: Embed, rows: NDArray[np.int64], whose: str) -> Measured:
    """What the pairs among `rows` say, pictures of the people `whose` says.

    Raises:
        EdgefaceError: there are too few people or pairs of strangers.
    """
    people = len(np.unique(data.identity[rows]))
    if people < FEWEST_PEOPLE:
        raise EdgefaceError(
            f"{people} people are {whose}, {FEWEST_PEOPLE} are the least to find a threshold by: "
            "give pictures of more people"
        )
    clean = embed(np.asarray(data.images[rows]))
    similarity, same = held_out_pairs(data, clean, rows)
    found = measure_pairs(similarity, same, f"of {people} {whose}", clean.shape[1])
    small = round(small_probe_tar(data, embed, rows, clean), 5)
    return replace(found, metrics=found.metrics | {"held_out_24px_tar_at_far_1e-3": small})


def measure_pairs(
    similarity: NDArray[np.float32], same: NDArray[np.bool_], whose: str, size: int
) -> Measured:
    """What cosines (m,) of pairs say, `same` (m,) of one person, pairs of the people `whose` says.

    Raises:
        EdgefaceError: there are too few pairs of strangers.
    """
    pairs = int((~same).sum())
    if pairs < FEWEST_PAIRS:
        raise EdgefaceError(
            f"there are {pairs} pairs of strangers {whose}, {FEWEST_PAIRS} are the least to find a "
            "threshold by: give more people or pictures"
        )
    far = max(1e-4, 1 / pairs)
    threshold = round(float(threshold_at_far(similarity[~same], far)), 4)
    metrics: dict[str, Json] = {
        "held_out_tar_at_far_1e-4": round(tar_at_far(similarity, same, far), 5)
    }
    # What `Calibration.default_at` reads: impostor pairs, that is searches in a gallery of one.
    curve = calibrate(similarity[~same], fpir=rate(pairs), size=1)
    impostors = Impostors(*(rounded(getattr(curve, f.name)) for f in fields(Impostors)))
    words = f"cosine at FAR {far:.0e} over {pairs:,} impostor pairs {whose}"
    return Measured(threshold, words, impostors, metrics, size)


def unprotected(groups: tuple[Group, ...]) -> str:
    """What the threshold does not hold for, in words; empty where no group was measured."""
    if not groups:
        return ""
    worst = groups[0]
    return f"{UNPROTECTED} strangers both of {worst.name} pass in {worst.rate.value:.1%} of pairs"


def card_of(
    model: Path,
    found: Measured,
    *,
    license: str,
    about: dict[str, Json],
    groups: tuple[Group, ...] = (),
) -> ModelCard:
    """The card of an embedder that takes RGB 0..255; an .xml beside it is OpenVINO's."""
    ir = model.with_suffix(".xml")
    return ModelCard(
        name=model.stem,
        task="embedding",
        path=model,
        digest=digest(model),
        size=found.size,
        threshold=Threshold(found.threshold, "card"),
        derivation=found.derivation + unprotected(groups),
        input=InputSpec("image", size=(112, 112)),
        outputs={"embedding": "embedding", "norm": "norm"},
        alignment="arcface-112",
        license=license,
        impostors=found.impostors,
        groups=groups,
        variants={"openvino": FileRef(ir, digest(ir))} if ir.exists() else {},
        about=about,
    )
