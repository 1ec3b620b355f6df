"""Every rule on the same test images, with heads as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.submodel_sets import Draw
from edgeface import score
from edgeface.metrics import closed_set
from edgeface.submodels import Rule, choose, tune, unit
from export.head_training import tune_rules

BATCH_ORIGINAL = 1000
FPIR = 1e-2


def compare(
    draw: Draw,
    weights: dict[str, NDArray[np.float32]],
    cells: NDArray[np.int64],
    centres: NDArray[np.float32],
) -> dict[str, dict[str, Any]]:
    """Every rule with heads as they are: `weights` (n, d) of single (perhaps), ism and kmeans, the
    latter of the submodels `cells` (n,)."""
    val = draw.val
    w = weights["kmeans"]
    tuned, _ = tune_rules(w, centres, val)
    folded = unit(tuned["fold"].fold * w + (1 - tuned["fold"].fold) * centres)
    sets = {"val": unit(val.x), "test": unit(draw.test.x), "strangers": unit(draw.strangers)}
    votes = {s: score.mixmaxsim(p, w, centres) for s, p in sets.items()}
    wrong = {s: _original(votes[s], w, sets[s], cells) for s in sets}
    broken = tune(wrong["val"], val.y)

    def nearest(
        rows: NDArray[np.float32],
    ) -> Callable[[str], tuple[NDArray[np.int64], NDArray[np.float32]]]:
        return lambda s: _nearest(sets[s], rows)

    answers: dict[str, Callable[[str], tuple[NDArray[np.int64], NDArray[np.float32]]]] = {
        **{r: nearest(rows) for r, rows in weights.items() if r != "kmeans"},
        "kmeans": lambda s: choose(votes[s], Rule("maxmax")),
        "mixmaxsim": lambda s: choose(votes[s], tuned["mixmaxsim"]),
        "mixmaxsim_original": lambda s: choose(wrong[s], broken),
        "sim": lambda s: choose(votes[s], Rule("sim")),
        "fold": lambda s: _nearest(sets[s], folded),
    }
    return {rule: _judge(answer, draw) for rule, answer in answers.items()}


def _judge(answer: Callable[[str], Any], draw: Draw) -> dict[str, Any]:
    truth = draw.test.y
    found, similarity = answer("test")
    right = found == truth
    closed = closed_set(truth, found)
    tpir = None
    if len(draw.strangers):
        strangers = np.sort(answer("strangers")[1])[::-1]
        tpir = float((right & (similarity > strangers[int(FPIR * len(strangers))])).mean())
    return {
        "right": right, "validation": float((answer("val")[0] == draw.val.y).mean()),
        "accuracy_unseen": float(right[draw.unseen[truth]].mean()),
        "precision": closed.precision, "recall": closed.recall, "f1": closed.f1, "tpir": tpir,
    }  # fmt: skip


def _nearest(x: NDArray[Any], rows: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found, similarities = score.topk(x, rows, 1)
    return found[:, 0], similarities[:, 0]


def _original(
    votes: score.Votes, w: NDArray[Any], x: NDArray[Any], cells: NDArray[Any]
) -> score.Votes:
    """a' as the original computes it: it walks the probes whose Sim class lies in a submodel in
    batches of 1000 and indexes the classes by the position inside the batch, so that every probe
    past the first batch reads the class of the probe that many places earlier."""
    wanted = votes.sim.copy()
    for cell in range(int(cells.max()) + 1):
        inside = np.flatnonzero(cells[votes.sim] == cell)
        wanted[inside] = votes.sim[inside[np.arange(len(inside)) % BATCH_ORIGINAL]]
    a_prime = (w[wanted] * x).sum(axis=1).astype(np.float32)
    return score.Votes(votes.maxmax, votes.sim, votes.a, a_prime, votes.b, votes.b_prime)
