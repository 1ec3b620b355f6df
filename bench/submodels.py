"""Which submodel rule to pick: Single, ISM, k-means + MaxMax, MixMaxSim, Sim, fold.

Real set `faces`: every identity of the shared crops with at least 10 images (LFW, Pins, CelebA;
people of two sets counted once), at most 30 images each, embedded by a teacher; strangers are 2000
LFW people with one image. Synthetic sets `synthetic<N>` follow the two-covariance model fitted to
those embeddings (N. Bruemmer & E. de Villiers, 2010): class centres ~ N(mean, between), images ~
N(centre, r^2 within), where r is drawn from the real images' residual lengths, so that there are
good and bad pictures; all scaled to unit length.

Rules: `single` one head, MaxMax. `ism` random partition, MaxMax. `kmeans` balanced k-means
partition, MaxMax. `mixmaxsim` the k-means heads and centres, as specified. `mixmaxsim_original`
with the original's wrong a' (the class of another probe, for every probe past the first 1000 of a
submodel) and its own tuning. `sim` the nearest class mean, no training. `fold` lambda w +
(1 - lambda) c. Everything is tuned on validation data and reported on test data, over seeds that
redraw split and partitions; p-values are exact McNemar tests against `sim` over all seeds pooled,
intervals bootstrap 95 % over probes. `default` is the rule that wins on validation.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface import score
from edgeface.submodels import Rule, choose, tune, unit
from export import heads

CACHE = Path(__file__).parents[1] / "runs" / "submodels"
MIN_IMAGES, MAX_IMAGES, UNKNOWNS = 10, 30, 2000
BATCH_ORIGINAL = 1000
FPIR = 1e-2
SAME_PERSON = 0.6  # teacher cosine of two means beyond which two labels are one person
RULES = ("single", "ism", "kmeans", "mixmaxsim", "mixmaxsim_original", "sim", "fold")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", default="edgeface_xs", help="embedder of the real set")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of each head")
    parser.add_argument(
        "--synthetic", type=int, nargs="*", default=[1000], metavar="N", help="sizes, up to 100000"
    )


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    arrays = embed(args.shared, args.teacher)
    x, y = _distinct(arrays["x"], arrays["y"])
    known, strangers = heads.Features(x[y >= 0], y[y >= 0], _names(y)), x[y < 0]
    seeds, epochs = (2, 3) if args.quick else (args.seeds, args.epochs)
    model = _fit(known)
    out: dict[str, float | str | None] = {
        "submodels.faces.embedder": args.teacher,
        "submodels.faces.classes": float(len(known.names)),
        "submodels.faces.images": float(len(known.y)),
        "submodels.faces.strangers": float(len(strangers)),
    }
    out |= evaluate("faces", lambda _: (known, strangers), seeds, epochs, submodels=4)
    for n in [200] if args.quick else args.synthetic:
        k = max(2, min(10, n // 500))

        def draw(seed: int, n: int = n) -> tuple[heads.Features, NDArray[np.float32]]:
            return synthetic(n, model, seed)

        # Where a head costs minutes an epoch, fewer seeds and epochs; the figures say how many.
        limits = (min(seeds, 2), min(epochs, 2)) if n > 5000 else (seeds, epochs)
        out |= evaluate(f"synthetic{n}", draw, *limits, submodels=k)
    return out


def evaluate(
    name: str,
    draw: Callable[[int], tuple[heads.Features, NDArray[np.float32]]],
    seeds: int,
    epochs: int,
    *,
    submodels: int,
) -> dict[str, float | str | None]:
    """All rules over all seeds: figures under `submodels.<name>.<rule>`."""
    runs = [one_seed(*draw(seed), seed=seed, epochs=epochs, submodels=submodels)
            for seed in range(seeds)]  # fmt: skip
    prefix, out = f"submodels.{name}", dict[str, float | str | None]()
    out[f"{prefix}.submodels"], out[f"{prefix}.seeds"] = float(submodels), float(seeds)
    out[f"{prefix}.epochs"] = float(epochs)
    validation = {}
    for rule in RULES:
        per_seed = [run[rule]["right"].mean() for run in runs]
        right = np.concatenate([run[rule]["right"] for run in runs])
        base = np.concatenate([run["sim"]["right"] for run in runs])
        validation[rule] = float(np.mean([run[rule]["validation"] for run in runs]))
        low, high = _bootstrap(right.astype(float) - base)
        out[f"{prefix}.{rule}.accuracy"] = float(np.mean(per_seed))
        out[f"{prefix}.{rule}.accuracy_sd"] = float(np.std(per_seed, ddof=1)) if seeds > 1 else None
        for metric in ("precision", "recall", "f1", "tpir"):
            out[f"{prefix}.{rule}.{metric}"] = float(np.mean([run[rule][metric] for run in runs]))
        out[f"{prefix}.{rule}.validation_accuracy"] = validation[rule]
        out[f"{prefix}.{rule}.minus_sim_low"], out[f"{prefix}.{rule}.minus_sim_high"] = low, high
        out[f"{prefix}.{rule}.mcnemar_p_vs_sim"] = mcnemar(right, base)
    usable = ("sim", "single", "ism", "kmeans", "fold", "mixmaxsim")
    out[f"{prefix}.default"] = max(usable, key=validation.__getitem__)  # first of equals: simplest
    plain = max(float(out[f"{prefix}.{r}.accuracy"] or 0) for r in ("sim", "single", "fold"))
    gain = float(out[f"{prefix}.mixmaxsim.accuracy"] or 0) - plain
    out[f"{prefix}.mixmaxsim_minus_best_plain"] = gain
    return out


def one_seed(
    features: heads.Features, strangers: NDArray[np.float32], *, seed: int, epochs: int,
    submodels: int,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Splits, trains three sets of heads, and judges every rule on the same test images."""
    rest, test = heads.split(features, 5, seed)
    train, val = heads.split(rest, 2, seed + 1000)
    n = len(features.names)
    centres = heads.centres_of(train.x, train.y, n)
    settings = heads.HeadSettings(epochs=epochs, seed=100 * seed)
    weights, cells = {}, {}
    for rule, method in (("single", "single"), ("ism", "random"), ("kmeans", "kmeans")):
        cells[rule] = heads.partition(centres, submodels, method=method, seed=seed)
        weights[rule] = heads.train_heads(train, val, cells[rule], settings=settings)
    w = weights["kmeans"]
    tuned, _ = heads.tune_rules(w, centres, val)
    folded = unit(tuned["fold"].fold * w + (1 - tuned["fold"].fold) * centres)
    sets = {"val": unit(val.x), "test": unit(test.x), "strangers": unit(strangers)}
    votes = {s: score.mixmaxsim(p, w, centres) for s, p in sets.items()}
    wrong = {s: _original(votes[s], w, sets[s], cells["kmeans"]) for s in sets}
    broken = tune(wrong["val"], val.y)
    answers: dict[str, Callable[[str], tuple[NDArray[np.int64], NDArray[np.float32]]]] = {
        "single": lambda s: _nearest(sets[s], weights["single"]),
        "ism": lambda s: _nearest(sets[s], weights["ism"]),
        "kmeans": lambda s: choose(votes[s], Rule("maxmax")),
        "mixmaxsim": lambda s: choose(votes[s], tuned["mixmaxsim"]),
        "mixmaxsim_original": lambda s: choose(wrong[s], broken),
        "sim": lambda s: choose(votes[s], Rule("sim")),
        "fold": lambda s: _nearest(sets[s], folded),
    }
    return {rule: _judge(answer, test.y, val.y, n) for rule, answer in answers.items()}


def _judge(answer: Callable[[str], Any], truth: NDArray, val: NDArray, n: int) -> dict[str, Any]:
    found, similarity = answer("test")
    right = found == truth
    hits = np.bincount(truth[right], minlength=n)
    named, present = np.bincount(found, minlength=n), np.bincount(truth, minlength=n)
    precision = hits / np.maximum(named, 1)
    recall = hits / np.maximum(present, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    strangers = np.sort(answer("strangers")[1])[::-1]
    limit = strangers[int(FPIR * len(strangers))]
    return {
        "right": right, "validation": float((answer("val")[0] == val).mean()),
        "precision": float(precision.mean()), "recall": float(recall.mean()),
        "f1": float(f1.mean()), "tpir": float((right & (similarity > limit)).mean()),
    }  # fmt: skip


def _nearest(x: NDArray, rows: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found, similarities = score.topk(x, rows, 1)
    return found[:, 0], similarities[:, 0]


def _original(votes: score.Votes, w: NDArray, x: NDArray, cells: NDArray) -> score.Votes:
    """a' as the original computes it: it walks the probes whose Sim class lies in a submodel in
    batches of 1000 and indexes the classes by the position inside the batch, so that every probe
    past the first batch reads the class of the probe that many places earlier."""
    wanted = votes.sim.copy()
    for cell in range(int(cells.max()) + 1):
        inside = np.flatnonzero(cells[votes.sim] == cell)
        wanted[inside] = votes.sim[inside[np.arange(len(inside)) % BATCH_ORIGINAL]]
    a_prime = (w[wanted] * x).sum(axis=1).astype(np.float32)
    return score.Votes(votes.maxmax, votes.sim, votes.a, a_prime, votes.b, votes.b_prime)


def mcnemar(first: NDArray, second: NDArray) -> float:
    """Two-sided exact p-value that two classifiers err equally often (McNemar, 1947)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    log = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(k + 1)]
    tail = sum(math.exp(v - n * math.log(2)) for v in log)
    return min(1.0, 2 * tail)


def _bootstrap(difference: NDArray, rounds: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean; differences are -1, 0 or 1, so that counts can be drawn."""
    rng = np.random.default_rng(0)
    n = len(difference)
    share = [(difference == v).mean() for v in (-1, 0, 1)]
    drawn = rng.multinomial(n, np.asarray(share) / np.sum(share), size=rounds)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / n, [0.025, 0.975])
    return float(low), float(high)


def _names(y: NDArray) -> list[str]:
    return [str(i) for i in range(int(y.max()) + 1)]


def _fit(known: heads.Features) -> dict[str, NDArray]:
    """Mean, square roots of the between- and within-class covariances, residual lengths."""
    x, y = unit(known.x).astype(np.float64), known.y
    counts = np.bincount(y)[:, None]
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, y, x)
    means = sums / counts
    # The own image is in its mean: unbiased residuals are longer by sqrt(n / (n - 1)).
    residual = (x - means[y]) * np.sqrt(counts / (counts - 1))[y]
    lengths = np.linalg.norm(residual, axis=1)
    within = residual.T @ residual / len(x)
    noise = within / np.mean(counts)
    between = np.cov(means.T) - noise

    def root(covariance: NDArray) -> NDArray:
        values, vectors = np.linalg.eigh(covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)

    scale = np.sqrt((lengths**2).mean())
    return {"mean": means.mean(axis=0).astype(np.float32), "between": root(between),
            "within": root(within), "r": (lengths / scale).astype(np.float32)}  # fmt: skip


def synthetic(
    n: int, model: dict[str, NDArray], seed: int, images: int = 15
) -> tuple[heads.Features, NDArray[np.float32]]:
    """`images` of each of n classes of the fitted model, and 2000 strangers, one image each."""
    rng = np.random.default_rng(seed)
    d = len(model["mean"])

    def people(count: int) -> NDArray[np.float32]:
        return (
            model["mean"] + rng.standard_normal((count, d), dtype=np.float32) @ model["between"].T
        )

    def pictures(centres: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = np.empty_like(centres)
        for s in range(0, len(centres), 65536):
            block = centres[s : s + 65536]
            noise = rng.standard_normal(block.shape, dtype=np.float32) @ model["within"].T
            rows[s : s + 65536] = block + rng.choice(model["r"], (len(block), 1)) * noise
        return unit(rows)

    y = np.repeat(np.arange(n), images)
    x = pictures(people(n)[y])
    return heads.Features(x, y, [str(i) for i in range(n)]), pictures(people(UNKNOWNS))


def _distinct(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Without the classes whose mean is closer than SAME_PERSON to that of an earlier class: one
    person under two labels."""
    n = int(y.max()) + 1
    sums = np.zeros((n, x.shape[1]))
    np.add.at(sums, y[y >= 0], x[y >= 0])
    means = unit(sums)
    twin = np.tril(means @ means.T > SAME_PERSON, -1).any(axis=1)
    keep = (y < 0) | ~twin[y]
    renamed = np.where(twin, -1, np.cumsum(~twin) - 1)
    return x[keep], np.where(y[keep] < 0, -1, renamed[y[keep]])


def _folders(shared: Path) -> list[tuple[str, list[Path]]]:
    """Every identity folder of the shared crops and its pictures, sorted."""
    data = shared / "data"
    roots = [
        data / "lfw/aligned112",
        data / "pins/train",
        data / "pins/test",
        data / "faces/celeba",
    ]
    found = []
    for root in roots:
        for folder in sorted(p for p in root.rglob("*") if p.is_dir()):
            pictures = sorted(folder.glob("*.webp"))
            if pictures:
                found.append((str(folder.relative_to(data)), pictures))
    return found


def _person(folder: str) -> str:
    """Names two sets share become one: letters only, lower case. CelebA's are numbers."""
    letters = re.sub("[^a-z]", "", Path(folder).name.lower().removeprefix("pins_"))
    return letters or folder


def embed(shared: Path, teacher: str) -> dict[str, NDArray]:
    """Embeddings of known (>= 10 images) and unknown people by `teacher`, cached in runs/."""
    cached = CACHE / f"{teacher}.npz"
    if cached.exists():
        return dict(np.load(cached))
    import cv2
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(shared / "models/teachers" / f"{teacher}.onnx"), providers=["CPUExecutionProvider"]
    )
    known: dict[str, list[Path]] = {}
    unknown: list[Path] = []
    for folder, pictures in _folders(shared):
        if len(pictures) >= MIN_IMAGES:
            known.setdefault(_person(folder), pictures[:MAX_IMAGES])
        elif len(pictures) == 1 and folder.startswith("lfw"):
            unknown += pictures
    unknown = unknown[:: max(1, len(unknown) // UNKNOWNS)][:UNKNOWNS]
    paths = [p for pictures in known.values() for p in pictures] + unknown
    labels = [i for i, pictures in enumerate(known.values()) for _ in pictures]
    labels += [-1] * len(unknown)
    rows = []
    for start in range(0, len(paths), 32):
        batch = np.stack([cv2.imread(str(p))[:, :, ::-1] for p in paths[start : start + 32]])
        x = batch.transpose(0, 3, 1, 2).astype(np.float32)
        if teacher == "edgeface_xs":
            x = (x / 255 - 0.5) / 0.5
        y = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})[0]
        rows.append(unit(y))
    arrays = {"x": np.concatenate(rows), "y": np.asarray(labels)}
    CACHE.mkdir(parents=True, exist_ok=True)
    np.savez(cached, **arrays)
    return arrays
