"""One linear ArcFace head for each submodel, and the rules tuned on their votes.

Each head (Deng et al., CVPR 2019, s = 64, m = 0.5) starts from the class means and is stopped early
on validation accuracy. All K train in this process, or fan out over a Ray cluster: the same weights
for the same seed, since a head depends on nothing but its features, its settings and its own seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface import score
from edgeface.errors import EdgefaceError
from edgeface.submodels import Rule, choose, tune, unit
from export.features import Features, centres_of


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How one head is trained. `patience` epochs without a better validation accuracy end it.
    `start` at the class means, or at random as the original does."""

    scale: float = 64.0
    margin: float = 0.5
    lr: float = 1e-3
    epochs: int = 20
    patience: int = 3
    batch: int = 512
    seed: int = 0
    start: Literal["means", "random"] = "means"


def train_head(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    val: tuple[NDArray[np.float32], NDArray[np.int64]],
    centres: NDArray[np.float32],
    settings: HeadSettings,
) -> NDArray[np.float32]:
    """Unit class weights (n, d) of one ArcFace head; labels are rows of `centres`.

    The weights of the epoch with the best validation accuracy, of equals the least cross-entropy,
    the start being epoch 0. One thread, so that the result is the same wherever it runs.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _fit(train, val, centres, settings)
    finally:
        torch.set_num_threads(threads)


def _fit(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    val: tuple[NDArray[np.float32], NDArray[np.int64]],
    centres: NDArray[np.float32],
    settings: HeadSettings,
) -> NDArray[np.float32]:
    generator = torch.Generator().manual_seed(settings.seed)
    if settings.start == "random":
        centres = unit(torch.randn(centres.shape, generator=generator).numpy())
    x, y = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    weights = torch.from_numpy(centres.copy()).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=settings.lr)
    steps = settings.epochs * max(1, -(-len(x) // settings.batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, best_score, stale = centres, _validate(val, centres, settings), 0
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(x), generator=generator).split(settings.batch):
            loss = _arcface(x[batch], y[batch], weights, settings)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        now = unit(weights.detach().numpy())
        reached = _validate(val, now, settings)
        stale = 0 if reached > best_score else stale + 1
        if reached > best_score:
            best, best_score = now, reached
        if stale > settings.patience:
            break
    return best


def _arcface(
    x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, settings: HeadSettings
) -> torch.Tensor:
    cosine = x @ torch.nn.functional.normalize(weights).T
    own = cosine.gather(1, y[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    # Beyond pi - m the margin would wrap around; the linear continuation of the original.
    wrapped = own < np.cos(np.pi - settings.margin)
    shifted = torch.where(
        wrapped,
        own - settings.margin * np.sin(settings.margin),
        torch.cos(torch.acos(own) + settings.margin),
    )
    logits = cosine.scatter(1, y[:, None], shifted)
    return torch.nn.functional.cross_entropy(settings.scale * logits, y)


def _validate(
    val: tuple[NDArray[np.float32], NDArray[np.int64]],
    weights: NDArray[np.float32],
    settings: HeadSettings,
) -> tuple[int, float]:
    """Right answers, and of equally many the smaller cross-entropy without margin."""
    if not len(val[0]):
        return 0, 0.0
    offsets = np.array([0, len(weights)])
    votes = score.mixmaxsim(val[0], weights, weights, offsets=offsets, scale=settings.scale)
    assert votes.submodels is not None  # offsets were given
    own = (val[0] * weights[val[1]]).sum(axis=1)
    loss = (votes.submodels.log_sum_exp[:, 0] - settings.scale * own).mean()
    return int((votes.maxmax == val[1]).sum()), -float(loss)


def train_heads(
    train: Features,
    val: Features,
    submodel: NDArray[np.int64],
    *,
    settings: HeadSettings | Sequence[HeadSettings] = HeadSettings(),
    ray: str | None = None,
) -> NDArray[np.float32]:
    """Weights (N, d) of all heads, class order. `settings` are of all heads, each with a seed of
    its own, or of one head each. `ray` is an address, `local` for an embedded cluster, None for
    this process."""
    x, x_val = unit(train.x), unit(val.x)
    centres = centres_of(train.x, train.y, len(submodel))
    jobs: list[tuple[Any, ...]] = []
    members: list[NDArray[np.int64]] = []
    heads = int(submodel.max()) + 1
    if isinstance(settings, HeadSettings):
        settings = [replace(settings, seed=settings.seed + k) for k in range(heads)]
    for k, own in enumerate(settings):
        classes = np.flatnonzero(submodel == k)
        row = np.full(len(submodel), -1, dtype=np.int64)
        row[classes] = np.arange(len(classes))
        inside, inside_val = row[train.y] >= 0, row[val.y] >= 0
        jobs.append((
            (x[inside], row[train.y[inside]]),
            (x_val[inside_val], row[val.y[inside_val]]),
            centres[classes],
            own,
        ))  # fmt: skip
        members.append(classes)
    weights = np.empty_like(centres)
    for classes, head in zip(members, _map(train_head, jobs, ray), strict=True):
        weights[classes] = head
    return weights


def _map(function: Callable[..., Any], jobs: list[tuple[Any, ...]], ray: str | None) -> list[Any]:
    if ray is None:
        return [function(*job) for job in jobs]
    try:
        import ray as cluster
    except ImportError as error:
        raise EdgefaceError("--ray needs Ray: pip install 'edgeface[ray]'") from error
    owned = not cluster.is_initialized()
    if owned and ray == "local":
        _start_embedded(cluster)
    elif owned:
        cluster.init(log_to_driver=False, address=ray)
    try:
        remote = cluster.remote(num_cpus=1)(function)
        return list(cluster.get([remote.remote(*job) for job in jobs]))
    finally:
        if owned:
            cluster.shutdown()


def _start_embedded(cluster: Any, tries: int = 3) -> None:
    """Ray gives a node a fixed 30 s to start, too few on a machine with much else to do, and says
    so with a bare Exception."""
    failure: Exception | None = None
    for _ in range(tries):
        try:
            cluster.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            return
        except Exception as error:
            failure = error
            cluster.shutdown()
    raise EdgefaceError(
        f"Ray did not start in {tries} tries: {failure}; leave --ray out to train in this process"
    ) from failure


def tune_rules(
    weights: NDArray[np.float32], centres: NDArray[np.float32], val: Features
) -> tuple[dict[str, Rule], dict[str, float]]:
    """Every rule tuned on validation data and its accuracy there, the simplest rule first."""
    x = unit(val.x)
    votes = score.mixmaxsim(x, weights, centres)
    rules = {"sim": Rule("sim"), "maxmax": Rule("maxmax")}
    got = {k: float((choose(votes, r)[0] == val.y).mean()) for k, r in rules.items()}
    folds = {}
    for fold in np.arange(1, 10) / 10:
        rows = unit(fold * weights + (1 - fold) * centres)
        folds[float(fold)] = float((score.topk(x, rows, 1)[0][:, 0] == val.y).mean())
    middle = [f for f, v in folds.items() if v == max(folds.values())]
    rules["fold"] = Rule("fold", fold=middle[len(middle) // 2])
    got["fold"] = max(folds.values())
    rules["mixmaxsim"] = tune(votes, val.y)
    got["mixmaxsim"] = float((choose(votes, rules["mixmaxsim"])[0] == val.y).mean())
    return rules, got
