"""`python -m export heads FEATURES -o BANK`: MixMaxSim submodel heads on frozen embeddings.

Classes are split into K submodels, balanced spherical k-means of their centres, or at random (ISM,
Wu et al., ACM MM 2016); each gets one linear ArcFace head (Deng et al., CVPR 2019, s = 64,
m = 0.5), initialised from the class means and stopped early on validation accuracy. All K train in
this process, or with --ray fan out over a Ray cluster: the same weights for the same seed, since a
head depends on nothing but its features, its settings and its own seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface import score
from edgeface.calibrate import Calibration, from_model
from edgeface.cohort import MOST, Cohort, resemblance
from edgeface.errors import EdgefaceError
from edgeface.models import cards
from edgeface.submodels import KINDS, Rule, SubmodelBank, calibrate, choose, tune, unit
from edgeface.types import Threshold

PARTITIONS = ("kmeans", "random", "single")


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Embeddings `x` (n, d) float32, class `y` (n,) int64 in 0 ... N-1, class `names`."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    names: list[str]


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How one head is trained. `patience` epochs without a better validation accuracy end it."""

    scale: float = 64.0
    margin: float = 0.5
    lr: float = 1e-3
    epochs: int = 20
    patience: int = 3
    batch: int = 512
    seed: int = 0


def load_features(path: Path) -> Features:
    """A folder of NAME.npz, one per identity with its embeddings under `x`, or a folder with
    embeddings.npy (mapped, not read) and labels.npy, and names.json if the classes have names."""
    mapped = path / "embeddings.npy"
    if mapped.exists():
        y = np.load(path / "labels.npy").astype(np.int64)
        listed = path / "names.json"
        n = int(y.max()) + 1
        names = json.loads(listed.read_text()) if listed.exists() else [str(i) for i in range(n)]
        return Features(np.load(mapped, mmap_mode="r"), y, names)
    files = sorted(path.glob("*.npz"))
    if not files:
        raise EdgefaceError(
            f"{path}: no embeddings.npy and no NAME.npz; see python -m export heads --help"
        )
    rows = [np.load(f)["x"].astype(np.float32) for f in files]
    y = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    return Features(np.concatenate(rows), y, [f.stem for f in files])


def centres_of(x: NDArray[np.float32], y: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """Unit mean of the unit embeddings of each class (n, d)."""
    sums = np.zeros((n, x.shape[1]))
    np.add.at(sums, y, unit(x))
    return unit(sums)


def partition(
    centres: NDArray[np.float32], submodels: int, *, method: str = "kmeans", seed: int = 0
) -> NDArray[np.int64]:
    """The submodel of each class (n,). `random` is as balanced as `kmeans`: sizes differ by one."""
    n = len(centres)
    if method not in PARTITIONS:
        raise ValueError(f"partition {method!r} is none of {', '.join(PARTITIONS)}")
    if not 1 <= submodels <= n:
        raise ValueError(f"{submodels} submodels for {n} classes; expected 1 to {n}")
    if method == "single":
        return np.zeros(n, dtype=np.int64)
    rng = np.random.default_rng(seed)
    if method == "random":
        return rng.permutation(np.arange(n) % submodels).astype(np.int64)
    return _balanced_kmeans(centres, submodels, rng)


def _balanced_kmeans(
    centres: NDArray[np.float32], k: int, rng: np.random.Generator, iterations: int = 50
) -> NDArray[np.int64]:
    """Spherical k-means (Dhillon & Modha, 2001) with k-means++ seeds and at most ceil(1.05 n / k)
    classes per cell; no cell is empty."""
    capacity = int(np.ceil(1.05 * len(centres) / k))
    means = centres[_plusplus(centres, k, rng)]
    cells = np.full(len(centres), -1)
    for _ in range(iterations):
        before, cells = cells, _assign(centres @ means.T, capacity)
        for empty in np.flatnonzero(np.bincount(cells, minlength=k) == 0):
            fit = (centres * means[cells]).sum(axis=1)
            fit[np.bincount(cells, minlength=k)[cells] < 2] = np.inf
            cells[fit.argmin()] = empty
        if (cells == before).all():
            break
        sums = np.zeros_like(means, dtype=np.float64)
        np.add.at(sums, cells, centres)
        # A cell whose classes cancel out has no direction: it keeps its mean.
        means = np.where(np.linalg.norm(sums, axis=1, keepdims=True) > 1e-9, sums, means)
        means = unit(means)
    return cells.astype(np.int64)


def _plusplus(centres: NDArray[np.float32], k: int, rng: np.random.Generator) -> list[int]:
    """k-means++ (Arthur & Vassilvitskii, 2007): the next seed by squared chord distance."""
    chosen = [int(rng.integers(len(centres)))]
    distance = np.full(len(centres), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(2 - 2 * centres @ centres[chosen[-1]], 0))
        distance[chosen] = 0
        total = distance.sum()
        left = np.setdiff1d(np.arange(len(centres)), chosen)
        pick = rng.choice(len(centres), p=distance / total) if total > 0 else rng.choice(left)
        chosen.append(int(pick))
    return chosen


def _assign(similarity: NDArray[np.float32], capacity: int) -> NDArray[np.int64]:
    """Each class to its most similar cell with room; full cells keep the most similar askers."""
    n, k = similarity.shape
    cells = np.full(n, -1, dtype=np.int64)
    room = np.full(k, capacity)
    while (waiting := np.flatnonzero(cells < 0)).size:
        open_ = np.where(room > 0, similarity[waiting], -np.inf)
        wanted = open_.argmax(axis=1)
        for cell in np.unique(wanted):
            askers = waiting[wanted == cell]
            order = np.argsort(-similarity[askers, cell], kind="stable")[: room[cell]]
            cells[askers[order]] = cell
            room[cell] -= len(order)
    return cells


def train_head(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    val: tuple[NDArray[np.float32], NDArray[np.int64]],
    centres: NDArray[np.float32],
    settings: HeadSettings,
) -> NDArray[np.float32]:
    """Unit class weights (n, d) of one ArcFace head; labels are rows of `centres`.

    The weights of the epoch with the best validation accuracy, of equals the least cross-entropy,
    the class means being epoch 0. One thread, so that the result is the same wherever it runs.
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
            loss.backward()  # type: ignore[no-untyped-call]
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
    val: tuple[NDArray[np.float32], NDArray[np.int64]], weights: NDArray, settings: HeadSettings
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
    settings: HeadSettings = HeadSettings(),
    ray: str | None = None,
) -> NDArray[np.float32]:
    """Weights (N, d) of all heads, class order. `ray` is an address, `local` for an embedded
    cluster, None for this process."""
    x, x_val = unit(train.x), unit(val.x)
    centres = centres_of(train.x, train.y, len(submodel))
    jobs: list[tuple[Any, ...]] = []
    members: list[NDArray[np.int64]] = []
    for k in range(int(submodel.max()) + 1):
        classes = np.flatnonzero(submodel == k)
        row = np.full(len(submodel), -1, dtype=np.int64)
        row[classes] = np.arange(len(classes))
        inside, inside_val = row[train.y] >= 0, row[val.y] >= 0
        own = HeadSettings(**{f: getattr(settings, f) for f in settings.__dataclass_fields__
                              if f != "seed"}, seed=settings.seed + k)  # fmt: skip
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


def split(features: Features, per_class: int, seed: int = 0) -> tuple[Features, Features]:
    """`per_class` random embeddings of each class, and the rest; (rest, held out)."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(features.y), dtype=bool)
    for c in range(len(features.names)):
        own = np.flatnonzero(features.y == c)
        if len(own) <= per_class:
            raise EdgefaceError(
                f"class {features.names[c]} has {len(own)} embeddings; {per_class} are held out "
                "for validation and at least one must remain"
            )
        held[rng.permutation(own)[:per_class]] = True
    x = np.asarray(features.x)
    return (
        Features(x[~held], features.y[~held], features.names),
        Features(x[held], features.y[held], features.names),
    )


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


def to_onnx(bank: SubmodelBank, path: Path) -> None:
    """The same heads for people who stay inside a runtime: `probes` (q, d) float32 to `class` and
    `similarity` by the bank's rule, and to all votes where it has centres."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def exact(rows: score.Rows | score.QuantizedRows) -> NDArray[np.float32]:
        rows = rows.exact if isinstance(rows, score.QuantizedRows) else rows
        return np.ascontiguousarray(np.asarray(rows).astype(np.float32).T)

    kind, mixed = bank.rule.kind, bank.rule.kind == "mixmaxsim"
    main = bank.centres if kind == "sim" and bank.centres is not None else bank.weights
    constants = {"W": exact(main), "ids": np.asarray(bank.ids)}
    nodes = [
        helper.make_node("LpNormalization", ["probes"], ["x"], axis=1, p=2),
        helper.make_node("MatMul", ["x", "W"], ["sw"]),
        helper.make_node("ArgMax", ["sw"], ["A"], axis=1),
        helper.make_node("GatherElements", ["sw", "A"], ["a"], axis=1),
    ]
    if mixed and bank.centres is not None:
        constants |= {"C": exact(bank.centres), "one": np.float32([1]), "half": np.float32([0.5]),
                      "tau": np.float32([bank.rule.tau]),
                      "gamma": np.float32([bank.rule.gamma])}  # fmt: skip
        for op, inputs, output in (
            ("MatMul", ["x", "C"], "sc"), ("GatherElements", ["sc", "A"], "b_prime"),
            ("Add", ["a_prime", "one"], "a1"), ("Mul", ["b", "a1"], "m"),
            ("Mul", ["m", "tau"], "l"),
            ("Add", ["b_prime", "one"], "b1"), ("Mul", ["a", "b1"], "r"),
            ("Greater", ["l", "r"], "prefer"), ("Greater", ["a", "gamma"], "sure"),
            ("Not", ["sure"], "unsure"), ("And", ["prefer", "unsure"], "use_sim"),
            ("Where", ["use_sim", "B", "A"], "row"), ("Add", ["b", "a_prime"], "sum_b"),
            ("Add", ["a", "b_prime"], "sum_a"), ("Where", ["use_sim", "sum_b", "sum_a"], "sum"),
            ("Mul", ["sum", "half"], "similarity"),
        ):  # fmt: skip
            nodes.append(helper.make_node(
                op, inputs, [output], **({"axis": 1} if op == "GatherElements" else {})
            ))  # fmt: skip
            if output == "sc":
                nodes.append(helper.make_node("ArgMax", ["sc"], ["B"], axis=1))
                nodes.append(helper.make_node("GatherElements", ["sc", "B"], ["b"], axis=1))
                nodes.append(helper.make_node("GatherElements", ["sw", "B"], ["a_prime"], axis=1))
    else:
        nodes += [helper.make_node("Identity", ["A"], ["row"]),
                  helper.make_node("Identity", ["a"], ["similarity"])]  # fmt: skip
    nodes.append(helper.make_node("Gather", ["ids", "row"], ["class"]))
    outputs = [("class", TensorProto.INT64), ("similarity", TensorProto.FLOAT)]
    if mixed:
        outputs += [(n, TensorProto.FLOAT) for n in ("a", "a_prime", "b", "b_prime")]
    shape = ["q", constants["W"].shape[0]]
    graph = helper.make_graph(
        nodes, "submodels",
        [helper.make_tensor_value_info("probes", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, t, ["q", 1]) for n, t in outputs],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def to_openvino(onnx_path: Path, path: Path) -> None:
    """The ONNX export as OpenVINO IR."""
    import openvino

    model = openvino.convert_model(str(onnx_path))
    # Opened with default settings, a CPU that has bfloat16 would use it and decide differently.
    for node in model.get_ops():
        node.get_rt_info()["precise_0"] = True
    openvino.save_model(model, str(path), compress_to_fp16=False)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export heads", description=__doc__)
    parser.add_argument("features", type=Path, help=load_features.__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the bank, NAME.efb")
    parser.add_argument("--embedder", required=True, help="model file, or its SHA-256")
    parser.add_argument("--submodels", type=int, default=4)
    parser.add_argument("--partition", choices=PARTITIONS, default="kmeans")
    parser.add_argument("--rule", choices=[*KINDS, "best"], default="best")
    parser.add_argument("--val", type=int, default=5, help="embeddings per class held out")
    parser.add_argument(
        "--unknown",
        type=Path,
        help="features of strangers, for the threshold; without"
        " them a model of strangers stands in",
    )
    parser.add_argument("--fpir", type=float, default=1e-2)
    parser.add_argument("--epochs", type=int, default=HeadSettings().epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="fan out over Ray"
    )
    parser.add_argument("--onnx", type=Path, help="also export the heads as ONNX")
    parser.add_argument("--openvino", type=Path, help="also export as OpenVINO IR (needs --onnx)")
    args = parser.parse_args(argv)
    if args.openvino and not args.onnx:
        parser.error("--openvino needs --onnx")
    try:
        return _run(args)
    except (EdgefaceError, ValueError, OSError) as error:
        print(f"heads: {error}", file=sys.stderr)
        return 1


def modelled(centres: NDArray[np.float32], embedder: str, fpir: float) -> Threshold | None:
    """The threshold for classes of these `centres` by the impostor model of the embedder with that
    digest, never below what its card expects; None, said on stderr, where it has no such model."""
    card = next((card for card in cards() if card.digest == embedder), None)
    place = None if card is None else card.path.with_suffix(".cohort.npz")
    if card is None or place is None or not place.is_file():
        print(
            "heads: no strangers were given and there is no impostor model of that embedder: the "
            "bank has no threshold of its own, whoever opens it takes the one of the model's card",
            file=sys.stderr,
        )
        return None
    size, model = len(centres), Cohort.load(place, model=embedder)
    some = np.random.default_rng(0).permutation(size)[:MOST]
    forecast = model.forecast(size, resemblance([centres[i][None] for i in np.sort(some)]))
    curve = Calibration.of_card(card)
    return from_model(
        forecast.values, forecast.expected, forecast.safe, forecast.high,
        fpir=fpir, size=size, people=model.people, least=model.least(size),
        floor=card.threshold.value if curve is None else curve.default_at(size).value,
    ).threshold  # fmt: skip


def _run(args: argparse.Namespace) -> int:
    train, val = split(load_features(args.features), args.val, args.seed)
    centres = centres_of(train.x, train.y, len(train.names))
    submodel = partition(centres, args.submodels, method=args.partition, seed=args.seed)
    settings = HeadSettings(epochs=args.epochs, seed=args.seed)
    weights = train_heads(train, val, submodel, settings=settings, ray=args.ray)
    rules, accuracies = tune_rules(weights, centres, val)
    # max takes the first of equals: the simplest rule.
    rule = rules[max(rules, key=accuracies.__getitem__) if args.rule == "best" else args.rule]
    digest = args.embedder
    if Path(digest).is_file():
        digest = hashlib.sha256(Path(digest).read_bytes()).hexdigest()

    def pack(chosen: Rule) -> SubmodelBank:
        return SubmodelBank.pack(
            weights, centres, submodel, names=train.names, rule=chosen, embedder=digest
        )

    bank = pack(rule)
    if args.unknown:
        similarities = bank.classify(unit(load_features(args.unknown).x))[1]
        limit: Threshold | None = calibrate(similarities, args.fpir, len(bank))
    else:
        limit = modelled(centres, digest, args.fpir)
    if limit is not None:
        values = {f: getattr(rule, f) for f in ("kind", "tau", "gamma", "fold")}
        bank = pack(Rule(**values, threshold=limit.value, origin=limit.origin))
    bank.save(args.out)
    if args.onnx:
        to_onnx(bank, args.onnx)
    if args.openvino:
        to_openvino(args.onnx, args.openvino)
    print(json.dumps({"bank": str(args.out), "classes": len(bank), "submodels": bank.submodels,
                      "rule": bank.rule.kind, "threshold": bank.rule.threshold,
                      "validation_accuracy": accuracies}))  # fmt: skip
    return 0
