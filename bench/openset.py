"""Does a threshold keep its promise? FPIR on impostors whom the calibration never saw.

`measured`: galleries of N people (CelebA, one picture each) and impostors from LFW, none of them
enrolled; in each of 20 random splits 3,000 calibrate and the others search. `measured` is the FPIR
of those others at the calibrated threshold, pooled over the splits; `low` and `high` are the
interval that `edgeface.calibrate` stated; `grown` with a threshold that was calibrated at a quarter
of the gallery and derived for its size.

`model.SET`: 1 % asked of the impostor model beside the embedder, without a picture of a stranger.
100 galleries of people whom the model was not fitted to; `measured` is the mean FPIR of everybody
else, `low` and `high` the mean interval stated, `inside` the share of galleries whose FPIR lay in
their interval, `worst` the largest FPIR over the high end of its interval. SET is `lfw`, `aaf`
(East Asians from 2 to 80 years, enrolled and as strangers), `lfw_aaf` and `aaf_lfw` (the first
enrolled, the second strangers). Of `aaf` the shipped model has seen pictures: its figures need one
that was fitted without them, `--model-without` (`export cohort --without aaf_asian_all_ages`).

`card`: the same galleries of LFW people at the threshold that the embedder's card gives a gallery
nobody has calibrated, which aims at 1e-3. `tpir`: 1,000 LFW people with a second picture, enrolled,
at the FPIR of LFW people without one; `tpir_asnorm` the same with adaptive symmetric score
normalisation (Matejka et al., Interspeech 2017) by the 300 nearest of 2,000 CelebA people.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.calibrate import Calibration, calibrate, from_model, trials_needed
from edgeface.cohort import Cohort, resemblance
from edgeface.embed import DEFAULT, Embedder
from edgeface.metrics import fpir, tpir_at_fpir
from edgeface.models import load_card
from edgeface.types import Array

COHORT, SPLITS, NEAREST = 3000, 20, 300
SAME = 0.65  # LFW and CelebA share some people: closer pairs than this are taken for one person
DRAWS, ASKED = 100, 1e-2
RATES = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and where its embeddings are kept."""
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--cohort", type=Path, help="default: beside the model")
    parser.add_argument("--model-without", type=Path, help="impostor model fitted without aaf")
    parser.add_argument("--cache", type=Path, help="keep the embeddings in this .npz")
    parser.add_argument("--embeddings", type=Path, help="use these (the --cache of another model)")


def best(probes: Array, rows: Array) -> NDArray[np.float32]:
    """The similarity of the nearest row to each probe."""
    parts = [(probes[i : i + 512] @ rows.T).max(axis=1) for i in range(0, len(probes), 512)]
    return np.concatenate(parts)


def pictures(root: Path, nth: int) -> list[Path]:
    """The nth picture of every folder that has one."""
    folders = (sorted(folder.glob("*.webp")) for folder in sorted(root.iterdir()))
    return [found[nth] for found in folders if len(found) > nth]


def zipped(archive: Path) -> list[bytes]:
    """The encoded pictures of an archive, by name."""
    with zipfile.ZipFile(archive) as file:
        return [file.read(name) for name in sorted(file.namelist()) if name.endswith(".webp")]


def embed(embedder: Embedder, files: Sequence[Path | bytes]) -> Array:
    """(n, d) embeddings of aligned crops."""
    parts = []
    for start in range(0, len(files), 32):
        raw = [f if isinstance(f, bytes) else f.read_bytes() for f in files[start : start + 32]]
        crops = [np.asarray(cv2.imdecode(np.frombuffer(r, np.uint8), 1), np.uint8) for r in raw]
        parts.append(embedder(np.stack(crops)))
        print(f"\ropenset: {start + 32}/{len(files)}", end="", file=sys.stderr, flush=True)
    return np.concatenate(parts)


def embeddings(args: argparse.Namespace) -> dict[str, NDArray[Any]]:
    """`model` a digest or name, CelebA people, LFW people, second pictures of those LFW people
    who have one, and which those are."""
    if args.embeddings:
        return dict(np.load(args.embeddings))
    embedder = Embedder.load(args.model)
    every = 8 if args.quick else 1
    if args.cache and args.cache.exists() and not args.quick:
        kept = dict(np.load(args.cache))
        if str(kept["model"]) == embedder.card.digest:
            return kept
    lfw = args.shared / "data/lfw/aligned112"
    first, second = pictures(lfw, 0)[::every], pictures(lfw, 1)
    there = {f.parent for f in first}
    second = [f for f in second if f.parent in there]
    with_two = {f.parent for f in second}
    found = {
        "model": np.array(embedder.card.digest),
        "aaf": embed(embedder, zipped(args.shared / "data/faces/aaf_asian_all_ages.zip")[::every]),
        "celeba": embed(embedder, pictures(args.shared / "data/faces/celeba", 0)[::every]),
        "lfw": embed(embedder, first),
        "second": embed(embedder, second),
        "has_second": np.array([f.parent in with_two for f in first]),
    }
    if args.cache and not args.quick:
        args.cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(args.cache, allow_pickle=False, **found)
    return found


def calibrating(n: int) -> int:
    """How many of n impostors calibrate; three fifths where there are few, as in a quick run."""
    return min(COHORT, n * 3 // 5)


def splits(n: int) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Who calibrates and who searches, 20 times."""
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(n)
        yield order[: calibrating(n)], order[calibrating(n) :]


def cell(top: Array, quarter: Array, size: int, rate: float) -> dict[str, float]:
    """The figures of one gallery size and rate, from best similarities of LFW people to the whole
    gallery and to a quarter of it."""
    results, grown = [], []
    for known, held_out in splits(len(top)):
        result = calibrate(top[known], fpir=rate, size=size)
        results.append((fpir(top[held_out], result.value), result.value, result.low, result.high))
        small = calibrate(quarter[known], fpir=rate, size=max(1, size // 4))
        grown.append(fpir(top[held_out], small.at(size).value))
    measured, value, low, high = np.mean(results, axis=0)
    return {
        "measured": float(measured),
        "low": result.measured.low,
        "high": result.measured.high,
        "grown": float(np.mean(grown)),
        "threshold": float(value),
        "threshold_low": float(low),
        "threshold_high": float(high),
    }


def normalised(similarities: Array, probes: Array, enrolled: Array, cohort: Array) -> Array:
    """`similarities` (p, n) less the mean over their deviation of each side's nearest impostors."""
    result = np.zeros_like(similarities)
    for rows, axis in ((probes, 1), (enrolled, 0)):
        nearest = np.sort(rows @ cohort.T, axis=1)[:, -NEAREST:]
        mean = np.expand_dims(nearest.mean(axis=1), axis)
        result += 0.5 * (similarities - mean) / np.expand_dims(nearest.std(axis=1), axis)
    return result


def identified(data: dict[str, NDArray[Any]], cohort: Array) -> dict[str, float]:
    """TPIR of enrolled LFW people at each FPIR, of raw and of normalised similarities."""
    two = data["has_second"]
    enrolled, probes, strangers = data["lfw"][two][:1000], data["second"][:1000], data["lfw"][~two]
    mated, nonmated = probes @ enrolled.T, strangers @ enrolled.T
    pairs = {
        "tpir": (mated, nonmated),
        "tpir_asnorm": (
            normalised(mated, probes, enrolled, cohort),
            normalised(nonmated, strangers, enrolled, cohort),
        ),
    }
    result = {}
    for key, (own, other) in pairs.items():
        right = own.argmax(axis=1) == np.arange(len(own))
        for name, rate in RATES.items():
            share = tpir_at_fpir(own.max(axis=1), right, other.max(axis=1), rate)
            result[f"openset.fpir{name}.N1000.{key}"] = share
    return result


def modelled(
    cohort: Cohort, people: Array, strangers: Array | None, size: int, card: Calibration | None
) -> dict[str, float]:
    """The figures of the impostor model at one size: galleries drawn from `people`, searched by
    `strangers`, or by all others of them."""
    rows = []
    floor = -1.0 if card is None else card.default_at(size).value
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(people))
        gallery = people[order[:size]]
        forecast = cohort.forecast(size, resemblance([row[None] for row in gallery]))
        result = from_model(
            forecast.values, forecast.expected, forecast.safe, forecast.high,
            fpir=ASKED, size=size, people=cohort.people, least=cohort.least(size), floor=floor,
        )  # fmt: skip
        top = best(people[order[size:]] if strangers is None else strangers, gallery)
        stated = result.measured
        got, uncalibrated = fpir(top, result.value), fpir(top, floor)
        rows.append((got, stated.low, stated.high, result.value, got in stated, uncalibrated))
    table = np.array(rows, np.float64)
    names = ("measured", "low", "high", "threshold", "inside", "card")
    found = dict(zip(names, table.mean(axis=0).tolist(), strict=True))
    return found | {"worst": float((table[:, 0] / table[:, 2]).max())}


def promised(args: argparse.Namespace, data: dict[str, NDArray[Any]]) -> dict[str, float]:
    """What the impostor model and the card promise, kept or not."""
    card = load_card(args.model, "embedding")
    curve, digest = Calibration.of_card(card), str(data["model"])
    shipped = Cohort.load(args.cohort or card.path.with_suffix(".cohort.npz"), model=digest)
    lfw, aaf = data["lfw"], data["aaf"]
    runs: list[tuple[str, Cohort, Array, Array | None]] = [
        ("lfw", shipped, lfw, None),
        ("lfw_aaf", shipped, lfw, aaf),
    ]
    if args.model_without:
        apart = Cohort.load(args.model_without, model=digest)
        runs += [("aaf", apart, aaf, None), ("aaf_lfw", apart, aaf, lfw)]
    result: dict[str, float] = {"openset.model.people": float(shipped.people)}
    for name, cohort, people, strangers in runs:
        for size in (10, 30, 100) if args.quick else (10, 30, 100, 300, 1000):
            found = modelled(cohort, people, strangers, size, curve)
            uncalibrated = found.pop("card")
            result |= {f"openset.model.{name}.N{size}.{k}": v for k, v in found.items()}
            if curve is not None:
                result[f"openset.card.{name}.N{size}.threshold"] = curve.default_at(size).value
                result[f"openset.card.{name}.N{size}.fpir"] = uncalibrated
    return result


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    """Measured FPIR and stated interval for each gallery size and requested FPIR."""
    data = embeddings(args)
    alone = best(data["lfw"], data["celeba"]) < SAME
    strangers = data["lfw"][alone]
    result: dict[str, float | str | None] = {
        "openset.embedder": str(data["model"]),
        "openset.impostors": float(len(strangers)),
    }
    for size in (10, 100) if args.quick else (10, 100, 1000, 4000):
        rows = data["celeba"][:size]
        top, quarter = best(strangers, rows), best(strangers, rows[: max(1, size // 4)])
        for name, rate in RATES.items():
            if calibrating(len(strangers)) < trials_needed(rate):
                continue  # a quick run has too few impostors for the lowest rates
            for key, value in cell(top, quarter, size, rate).items():
                result[f"openset.fpir{name}.N{size}.{key}"] = value
    return result | promised(args, data) | identified(data, data["celeba"][-2000:])
