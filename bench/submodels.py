"""Which submodel rule to pick: Single, ISM, k-means + MaxMax, MixMaxSim, Sim, fold.

Sets: `faces`, real people embedded by the shipped embedder, and `synthetic<N>`, N classes fitted to
them; both in `bench/submodel_sets.py`. Or a set of your own as MixMaxSim's users prepare it
(--dataset), with or without --strangers; --update writes the table.

Rules: `single` one head, MaxMax. `ism` random partition, MaxMax. `kmeans` balanced k-means
partition, MaxMax. `mixmaxsim` the k-means heads and centres, as specified. `mixmaxsim_original`
with the original's wrong a' (the class of another probe, for every probe past the first 1000 of a
submodel) and its own tuning. `sim` the nearest class mean, no training. `fold` lambda w +
(1 - lambda) c. Everything is tuned on validation data and reported on test data, over seeds that
redraw split and partitions; p-values are exact McNemar tests against `sim` over all seeds pooled,
intervals bootstrap 95 % over probes. `tpir` is the share of known probes named rightly at the
similarity that 1 % of the strangers reach. `default` is the rule that wins on validation.

A head costs N^2 / K: at N = 100k there are 50 submodels, two epochs from the class means, and no
`single`, which would take 50 times as long.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import collect, submodel_regimes
from bench.report_pages import measured
from bench.submodel_rules import compare
from bench.submodel_sets import Draw, cosines, faces, fit, prepared, synthetic
from export.features import centres_of
from export.head_partition import partition
from export.head_training import HeadSettings, train_heads

Figures = dict[str, float | str | None]
QUICK_EVERY = 6  # a quick run looks at one in so many identities
SINGLE_UP_TO = 20_000
RULES = ("single", "ism", "kmeans", "mixmaxsim", "mixmaxsim_original", "sim", "fold")
PLAIN = ("sim", "single", "ism", "kmeans", "fold")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embedder", default="mobilefacenet", help="shipped model, or a file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of each head; by default 10 to 2 by size")
    parser.add_argument(
        "--sets", nargs="+", default=["faces", "1000", "10000", "100000"], metavar="SET",
        help="faces, or the number of classes of a synthetic set",
    )  # fmt: skip
    parser.add_argument(
        "--dataset", type=Path, help="a set of your own: folders train, val and test of NAME.npz"
    )
    parser.add_argument(
        "--strangers", type=Path, help="features of people who are not in --dataset"
    )
    parser.add_argument("--submodels", type=int, default=4, help="of --dataset")
    parser.add_argument(
        "--regimes", action="store_true", help="the search of where MixMaxSim wins instead"
    )
    parser.add_argument("--update", type=Path, metavar="FILE", help="collect the figures there")


def figures(args: argparse.Namespace) -> Figures:
    page = markdown
    if args.regimes:
        out, page = submodel_regimes.figures_of(args), submodel_regimes.markdown
    else:
        out = of_people(args) if args.dataset is None else of_dataset(args)
    if args.update:
        collect.update(
            args.update, out, bench="submodels", arguments=" ".join(sys.argv[1:]),
            totals=lambda _: {}, markdown=page,
        )  # fmt: skip
    return out


def of_dataset(args: argparse.Namespace) -> Figures:
    """A set as somebody else divided it: seeds redraw partitions and training alone."""
    name, drawn = re.sub(r"\W+", "_", args.dataset.name), prepared(args.dataset, args.strangers)
    epochs = args.epochs or (3 if args.quick else 10)
    seeds = 2 if args.quick else args.seeds
    out = evaluate(name, lambda _: drawn, seeds, epochs, submodels=args.submodels)
    at = f"submodels.{name}"
    return out | {f"{at}.embedder": "unknown", f"{at}.classes": float(len(drawn.train.names))}


def of_people(args: argparse.Namespace) -> Figures:
    """The sets of `bench/submodel_sets.py`."""
    people = faces(args.shared, args.embedder, every=QUICK_EVERY if args.quick else 1)
    model = fit(people.known)
    out: Figures = {}
    for which in ["faces", "200"] if args.quick else args.sets:
        print(f"submodels: {which}", file=sys.stderr, flush=True)
        n = len(people.known.names) if which == "faces" else int(which)
        epochs = args.epochs or (3 if args.quick else 10 if n <= 1000 else 5 if n < 50_000 else 2)
        name = "faces" if which == "faces" else f"synthetic{n}"
        draw = people.draw if which == "faces" else lambda seed, n=n: synthetic(n, model, seed)
        k = 4 if which == "faces" else max(2, n // 2000)
        out |= evaluate(name, draw, 2 if args.quick else args.seeds, epochs, submodels=k)
        out |= {f"submodels.{name}.embedder": f"{people.embedder} {people.digest[:12]}",
                f"submodels.{name}.classes": float(n)}  # fmt: skip
    return out


def evaluate(
    name: str, draw: Callable[[int], Draw], seeds: int, epochs: int, *, submodels: int
) -> Figures:
    """All rules over all seeds: figures under `submodels.<name>.<rule>`."""
    prefix, runs = f"submodels.{name}", []
    out: Figures = {f"{prefix}.submodels": float(submodels), f"{prefix}.seeds": float(seeds),
                    f"{prefix}.epochs": float(epochs)}  # fmt: skip
    for seed in range(seeds):
        drawn = draw(seed)
        print(f"submodels: {name}, seed {seed}", file=sys.stderr, flush=True)
        if not seed:
            out |= {f"{prefix}.{k}": v for k, v in cosines(drawn.train).items()}
        runs.append(one_seed(drawn, seed=seed, epochs=epochs, submodels=submodels))
    base = np.concatenate([run["sim"]["right"] for run in runs])
    validation = {}
    for rule in [r for r in RULES if r in runs[0]]:
        right = np.concatenate([run[rule]["right"] for run in runs])
        accuracies = [run[rule]["right"].mean() for run in runs]
        low, high = _bootstrap(right.astype(float) - base)
        out[f"{prefix}.{rule}.accuracy"] = float(np.mean(accuracies))
        out[f"{prefix}.{rule}.accuracy_sd"] = (
            float(np.std(accuracies, ddof=1)) if seeds > 1 else None
        )
        for metric in ("accuracy_unseen", "precision", "recall", "f1", "tpir", "validation"):
            values = [run[rule][metric] for run in runs]
            told = None not in values
            out[f"{prefix}.{rule}.{metric}"] = float(np.mean(values)) if told else None
        validation[rule] = float(out[f"{prefix}.{rule}.validation"] or 0)
        out[f"{prefix}.{rule}.minus_sim_low"], out[f"{prefix}.{rule}.minus_sim_high"] = low, high
        out[f"{prefix}.{rule}.mcnemar_p_vs_sim"] = mcnemar(right, base)
    return out | _advice(prefix, runs, validation)


def _advice(prefix: str, runs: list[dict[str, Any]], validation: dict[str, float]) -> Figures:
    """The rule that wins on validation, the simplest of equals, and what MixMaxSim adds to the
    plain rule that is best there."""
    plain = [r for r in PLAIN if r in validation]
    default = max([*plain, "mixmaxsim"], key=validation.__getitem__)
    rival = max(plain, key=validation.__getitem__)
    mixed = np.concatenate([run["mixmaxsim"]["right"] for run in runs])
    other = np.concatenate([run[rival]["right"] for run in runs])
    gain, p = float(mixed.mean() - other.mean()), mcnemar(mixed, other)
    beats = "beats" if gain > 0 and p < 0.05 else "does not beat"
    return {
        f"{prefix}.default": default,
        f"{prefix}.mixmaxsim_minus_best_plain": gain,
        f"{prefix}.advice": f"pick {default}; MixMaxSim {beats} {rival} ({gain:+.4f}, p = {p:.2g})",
    }


def one_seed(draw: Draw, *, seed: int, epochs: int, submodels: int) -> dict[str, dict[str, Any]]:
    """Trains the sets of heads, and judges every rule on the same test images."""
    train, n = draw.train, len(draw.train.names)
    centres = centres_of(train.x, train.y, n)
    settings = HeadSettings(epochs=epochs, seed=100 * seed)
    weights, cells = {}, {}
    for rule, method in (("single", "single"), ("ism", "random"), ("kmeans", "kmeans")):
        if rule == "single" and n > SINGLE_UP_TO:
            continue
        cells[rule] = partition(centres, submodels, method=method, seed=seed)
        weights[rule] = train_heads(train, draw.val, cells[rule], settings=settings)
    return compare(draw, weights, cells["kmeans"], centres)


def mcnemar(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Two-sided exact p-value that two classifiers err equally often (McNemar, 1947)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    log = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    tail = sum(math.exp(v - n * math.log(2)) for v in log)
    return min(1.0, 2 * tail)


def _bootstrap(difference: NDArray[Any], rounds: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean; differences are -1, 0 or 1, so that counts can be drawn."""
    rng = np.random.default_rng(0)
    n = len(difference)
    share = [(difference == v).mean() for v in (-1, 0, 1)]
    drawn = rng.multinomial(n, np.asarray(share) / np.sum(share), size=rounds)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / n, [0.025, 0.975])
    return float(low), float(high)


def markdown(document: dict[str, Any]) -> str:
    got = document["figures"]
    if "regimes.repetitions" in got:
        return submodel_regimes.markdown(document)
    lines = ["# Submodel rules", "",
             f"{measured(document)}. Written by `python -m bench submodels --update`; sets "
             "and rules: `bench/submodels.py` and `bench/submodel_sets.py`.", ""]  # fmt: skip
    names = sorted({k.split(".")[1] for k in got}, key=lambda n: got[f"submodels.{n}.classes"])
    for name in names:
        at = f"submodels.{name}"
        lines += [
            f"## {name}", "",
            f"{got[f'{at}.classes']:.0f} classes in {got[f'{at}.submodels']:.0f} submodels, "
            f"{got[f'{at}.seeds']:.0f} seeds, at most {got[f'{at}.epochs']:.0f} epochs; embedder "
            f"{got[f'{at}.embedder']}; cosine of two images of a class "
            f"{got[f'{at}.genuine_cosine']:.3f} +- {got[f'{at}.genuine_cosine_sd']:.3f}, of two "
            f"classes {got[f'{at}.impostor_cosine']:.3f} +- {got[f'{at}.impostor_cosine_sd']:.3f}.",
            "", f"**{got[f'{at}.advice']}**", "",
            "| rule | accuracy | unseen | precision | recall | F1 | TPIR@FPIR=1e-2 "
            "| minus sim, 95 % | McNemar p |", "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for rule in RULES:
            if f"{at}.{rule}.accuracy" not in got:
                continue
            v = {k: got[f"{at}.{rule}.{k}"] for k in (
                "accuracy", "accuracy_sd", "accuracy_unseen", "precision", "recall", "f1", "tpir",
                "minus_sim_low", "minus_sim_high", "mcnemar_p_vs_sim")}  # fmt: skip
            tpir = "–" if v["tpir"] is None else f"{v['tpir']:.4f}"
            lines.append(
                f"| {rule} | {v['accuracy']:.4f} +- {v['accuracy_sd'] or 0:.4f} "
                f"| {v['accuracy_unseen']:.4f} | {v['precision']:.4f} | {v['recall']:.4f} "
                f"| {v['f1']:.4f} | {tpir} "
                f"| {v['minus_sim_low']:+.4f} ... {v['minus_sim_high']:+.4f} "
                f"| {v['mcnemar_p_vs_sim']:.2g} |"
            )
        lines.append("")
    return "\n".join(lines)
