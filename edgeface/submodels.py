"""SubmodelBank: identification over many classes split into submodels, in one mapped file.

A class has a learned unit weight w and a unit centre c, the mean of its embeddings. MixMaxSim
combines the classifier's vote A = argmax w.x with the nearest centre B = argmax c.x. The rules, for
a = w_A.x, a' = w_B.x, b = c_B.x, b' = c_A.x:

    maxmax     A. Independent softmax submodels (Wu et al., ACM MM 2016); with cosines the maximum
               over submodels of the maximum inside each is one global maximum.
    sim        B, the nearest class mean.
    mixmaxsim  A if a > gamma, else B if tau b (1 + a') / 2 > a (1 + b') / 2, else A.
    fold       argmax of lambda w + (1 - lambda) c, folded into one matrix when the bank is packed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edgeface import bankfile, score
from edgeface.document import Fields
from edgeface.errors import ArgumentError, BankError
from edgeface.types import Decision, Status, Threshold
from edgeface.types import Kind as PersonKind

Kind = Literal["maxmax", "sim", "mixmaxsim", "fold"]
KINDS: tuple[Kind, ...] = ("maxmax", "sim", "mixmaxsim", "fold")


@dataclass(frozen=True, slots=True)
class Rule:
    """How votes become a class. `tau` and `gamma` matter to mixmaxsim only, `fold` (lambda in
    [0, 1]) to fold only. A similarity below `threshold` is unknown, whose `origin` it carries; None
    for a rule that nobody has calibrated. One that no cosine is below, -1 or less, is None too."""

    kind: Kind
    tau: float = 1.0
    gamma: float = 1.0
    fold: float = 0.5
    threshold: float | None = None
    origin: str = "user"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BankError(f"rule {self.kind!r} is none of {', '.join(KINDS)}")
        numbers = [self.tau, self.gamma, self.fold, self.threshold or 0.0]
        if not all(np.isfinite(numbers)):
            raise BankError(f"rule {self} holds a number that is not finite")
        if self.threshold is not None and self.threshold <= -1.0:
            object.__setattr__(self, "threshold", None)


def choose(votes: score.Votes, rule: Rule) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The class of each probe by the rule, and its similarity, a raw cosine: of w for maxmax and
    fold, of c for sim, the mean of the chosen class's two cosines for mixmaxsim."""
    if rule.kind in {"maxmax", "fold"}:
        return votes.maxmax, votes.a
    if rule.kind == "sim":
        return votes.sim, votes.b
    prefer_sim = rule.tau * votes.b * (1 + votes.a_prime) > votes.a * (1 + votes.b_prime)
    use_sim = prefer_sim & ~(votes.a > rule.gamma)
    similarity = np.where(use_sim, votes.b + votes.a_prime, votes.a + votes.b_prime) / 2
    return np.where(use_sim, votes.sim, votes.maxmax), similarity.astype(np.float32)


def tune(votes: score.Votes, truth: NDArray[np.int64]) -> Rule:
    """MixMaxSim's tau and gamma from validation votes and their true classes.

    gamma is the 99 % quantile of `a` over the wrong MaxMax votes: above it MaxMax is trusted. tau
    maximises accuracy over 0, 0.05 ... 2; of equally good values the middle one, so that the choice
    does not sit on an edge. Raises ArgumentError when there is nothing to tune on.
    """
    if not len(truth):
        raise ArgumentError("no validation votes to tune tau and gamma on")
    wrong = votes.a[votes.maxmax != truth]
    gamma = float(np.quantile(wrong, 0.99)) if len(wrong) else -1.0
    taus = np.arange(41) / 20
    rules = [Rule("mixmaxsim", tau=float(t), gamma=gamma) for t in taus]
    right = np.array([(choose(votes, r)[0] == truth).sum() for r in rules])
    best = np.flatnonzero(right == right.max())
    return rules[int(best[len(best) // 2])]


def calibrate(similarities: NDArray[np.float32], fpir: float, classes: int) -> Threshold:
    """The least threshold that lets at most `fpir` of these unknown people's similarities reach it.

    Raises ArgumentError when the sample is too small to resolve `fpir`.
    """
    if not 0 < fpir < 1:
        raise ArgumentError(f"fpir is {fpir}, expected between 0 and 1")
    if len(similarities) * fpir < 1:
        raise ArgumentError(
            f"{len(similarities)} unknown probes cannot resolve FPIR {fpir:g}; "
            f"give at least {math.ceil(1 / fpir)}"
        )
    allowed = int(len(similarities) * fpir)
    over = np.sort(similarities)[::-1][allowed]
    value = float(np.nextafter(np.float32(over), np.float32(np.inf)))
    return Threshold(value, f"calibrated:fpir={fpir:.0e}@N={classes}".replace("e-0", "e-"))


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows (n, d) scaled to length 1, float32. Raises ArgumentError for zero or non-finite rows."""
    wide = np.asarray(rows, dtype=np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(norm) & (norm > 0)).all():
        raise ArgumentError("rows hold zeros, NaN or infinity and have no direction")
    scaled: NDArray[np.float32] = (wide / norm).astype(np.float32)
    return scaled


class SubmodelBank:
    """Classes with their weights and centres, ready to identify; make one with `pack` or `load`."""

    def __init__(
        self,
        weights: score.Rows | score.QuantizedRows,
        centres: score.Rows | score.QuantizedRows | None,
        *,
        ids: NDArray[np.int64],
        offsets: NDArray[np.int64],
        names: Sequence[str],
        rule: Rule,
        embedder: str,
    ) -> None:
        """`ids` (n,) names each row's class, `offsets` (K + 1,) cuts rows into submodels, `names`
        are by class; `centres` may be None when the rule does not use them."""
        self.weights, self.centres = weights, centres
        self.ids, self.offsets, self.names = ids, offsets, names
        self.rule, self.embedder = rule, embedder
        if centres is None and rule.kind not in {"maxmax", "fold"}:
            raise BankError(f"rule {rule.kind} needs centres and the bank has none")

    @property
    def submodels(self) -> int:
        """K."""
        return len(self.offsets) - 1

    @property
    def threshold(self) -> Threshold | None:
        """What the rule asks of a similarity; None where nobody has calibrated it."""
        limit = self.rule.threshold
        return None if limit is None else Threshold(limit, self.rule.origin)

    def with_threshold(self, threshold: Threshold) -> SubmodelBank:
        """The same bank, its arrays shared, with another threshold."""
        return SubmodelBank(
            self.weights, self.centres, ids=self.ids, offsets=self.offsets, names=self.names,
            rule=replace(self.rule, threshold=threshold.value, origin=threshold.origin),
            embedder=self.embedder,
        )  # fmt: skip

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.ids)

    @classmethod
    def pack(
        cls,
        weights: NDArray[np.float32],
        centres: NDArray[np.float32],
        submodel: NDArray[np.int64],
        *,
        names: Sequence[str],
        rule: Rule,
        embedder: str,
    ) -> SubmodelBank:
        """A bank of classes 0 ... n-1 from rows (n, d) in class order, `submodel` (n,) of each.

        Rows are normalised, stored as float16 with int8 codes beside them, and permuted so that a
        submodel is contiguous. `embedder` is the digest of the model the embeddings came from.
        """
        n = len(weights)
        if centres.shape != weights.shape or submodel.shape != (n,) or len(names) != n or not n:
            raise ArgumentError(
                f"weights {weights.shape}, centres {centres.shape}, submodel {submodel.shape} and "
                f"{len(names)} names must describe the same classes"
            )
        ids = np.argsort(submodel, kind="stable").astype(np.int64)
        sizes = np.bincount(submodel)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        w, c = unit(weights)[ids], unit(centres)[ids]
        if rule.kind == "fold":
            w = unit(rule.fold * w + (1 - rule.fold) * c)
        kept = None if rule.kind == "fold" else score.quantize(c.astype(np.float16))
        return cls(
            score.quantize(w.astype(np.float16)), kept, ids=ids, offsets=offsets,
            names=list(names), rule=rule, embedder=embedder,
        )  # fmt: skip

    def vote(
        self, probes: NDArray[np.float32], *, softmax: bool = False, threads: int = 2
    ) -> score.Votes:
        """Both winners and their four scores for unit probes (q, d); classes, not rows. With
        `softmax` also each submodel's maximum, argmax and log-sum-exp at scale 64. Without centres
        both winners are those of the weights."""
        centres = self.weights if self.centres is None else self.centres
        offsets = self.offsets if softmax else None
        return score.mixmaxsim(
            probes, self.weights, centres, ids=self.ids, offsets=offsets, threads=threads
        )

    def classify(
        self, probes: NDArray[np.float32], *, threads: int = 2
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Class and similarity (q,) of unit probes (q, d) by the bank's rule, closed set."""
        if self.rule.kind == "mixmaxsim":
            return choose(self.vote(probes, threads=threads), self.rule)
        sim = self.rule.kind == "sim" and self.centres is not None
        rows = self.centres if sim and self.centres is not None else self.weights
        found, similarities = score.topk(probes, rows, 1, threads=threads, ids=self.ids)
        return found[:, 0], similarities[:, 0]

    def identify(self, probes: NDArray[np.float32], *, threads: int = 2) -> list[Decision]:
        """Who each unit probe (q, d) is, unknown below the bank's threshold. A Decision's
        `person_id` is the class; `margin` is NaN, since a rule has no second place.

        Raises BankError where the bank has no threshold: without one every stranger is named.
        """
        threshold = self.threshold
        if threshold is None:
            raise BankError(
                "the bank was made without strangers and has no threshold: give it one by "
                "with_threshold, or open it through an Identifier, which takes the model's"
            )
        classes, similarities = self.classify(probes, threads=threads)
        decisions = []
        for index, value in zip(classes.tolist(), similarities.tolist(), strict=True):
            known = value >= threshold.value
            if not 0 <= index < len(self.names):
                raise BankError(f"the bank names a class {index} it does not have; it is damaged")
            decisions.append(
                Decision(
                    Status.MATCH if known else Status.UNKNOWN,
                    self.names[index] if known else None,
                    index if known else None,
                    value, float("nan"), threshold, PersonKind.KNOWN if known else None,
                )
            )  # fmt: skip
        return decisions

    def save(self, path: str | Path) -> None:
        """Writes the bank as one file, atomically: a reader sees the old one or the new one."""
        encoded = [name.encode() for name in self.names]
        ends = np.concatenate([[0], np.cumsum([len(e) for e in encoded])]).astype(np.int64)
        arrays: dict[str, NDArray[Any]] = {
            "ids": self.ids,
            "offsets": self.offsets,
            "name_ends": ends,
            "names": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        }
        scalars: dict[str, list[float]] = {}
        for label, rows in (("weights", self.weights), ("centres", self.centres)):
            if rows is None:
                continue
            if not isinstance(rows, score.QuantizedRows):
                rows = score.quantize(rows)
            for field in ("codes", "scale", "error", "exact"):
                arrays[f"{label}.{field}"] = getattr(rows, field)
            scalars[label] = [rows.norm, rows.error_max]
        meta = {"rule": asdict(self.rule), "embedder": self.embedder, "scalars": scalars}
        bankfile.write(Path(path), arrays, meta)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        embedder: str | None = None,
        storage: Literal["int8", "float"] = "int8",
        verify: bool = False,
    ) -> SubmodelBank:
        """Maps a saved bank; nothing but its header is read, whatever its size.

        `embedder` is the digest the bank must have been made with, None takes any. `storage`
        float scans the float rows, int8 their codes: the same answers, less memory traffic.
        `verify` reads the whole file against its checksums. Raises BankError for a file that is
        no bank, is damaged, cut short, of another version, or of another embedder.
        """
        arrays, header = bankfile.read(Path(path), verify=verify)
        made_with, scalars = header.text("embedder"), header.fields("scalars")
        rule = _rule(header.fields("rule"))
        labels = ("weights", "centres") if "centres" in scalars else ("weights",)
        _check_types(path, arrays, labels)
        ids, offsets = arrays["ids"], arrays["offsets"]
        names = bankfile.Names(arrays["names"], arrays["name_ends"])
        try:
            found = [_rows(arrays, k, scalars, storage == "int8") for k in labels]
        except BankError as error:
            raise BankError(f"{path}: the bank's header garbles {error}") from error
        weights, centres = found[0], found[1] if len(found) > 1 else None
        n, d = arrays["weights.exact"].shape
        shapes = [arrays[k].shape for k in arrays if k.endswith(".exact")]
        ascending = bool(offsets[0] == 0 and offsets[-1] == n and (np.diff(offsets) >= 0).all())
        if len(ids) != n or len(names) != n or shapes.count((n, d)) != len(shapes) or not ascending:
            raise BankError(f"{path}: the bank's arrays do not belong together; pack it again")
        if embedder is not None and embedder != made_with:
            raise BankError(
                f"{path}: made with embedder {made_with[:12]}, not {embedder[:12]}; their "
                "embeddings cannot be compared, so use that embedder or pack the bank again"
            )
        return cls(
            weights, centres, ids=ids, offsets=offsets, names=names, rule=rule, embedder=made_with
        )


def _rule(fields: Fields) -> Rule:
    wide = 1e9
    return Rule(
        cast(Kind, fields.text("kind", *KINDS)),
        fields.number("tau", -wide, wide, default=1.0),
        fields.number("gamma", -wide, wide, default=1.0),
        fields.number("fold", 0.0, 1.0, default=0.5),
        fields.number("threshold", -wide, wide) if "threshold" in fields else None,
        fields.text("origin", default="user"),
    )


def _check_types(path: str | Path, arrays: dict[str, NDArray[Any]], labels: Sequence[str]) -> None:
    """The sections that a bank must have, their types and numbers of axes: the scoring kernels
    trust these."""
    wanted = {"ids": ("int64", 1), "offsets": ("int64", 1)}
    wanted |= {"name_ends": ("int64", 1), "names": ("uint8", 1)}
    for label in labels:
        wanted |= {f"{label}.codes": ("uint8", 2), f"{label}.exact": ("float16", 2)}
        wanted |= {f"{label}.scale": ("float32", 1), f"{label}.error": ("float32", 1)}
    for name, (dtype, axes) in wanted.items():
        found = arrays.get(name)
        if found is None or found.dtype != dtype or found.ndim != axes or not len(found):
            raise BankError(f"{path}: section {name} is not of {dtype} with {axes} axes, or empty")


def _rows(
    arrays: dict[str, NDArray[Any]], label: str, scalars: Fields, quantized: bool
) -> score.Rows | score.QuantizedRows:
    codes, scale, error, exact = (
        arrays[f"{label}.{f}"] for f in ("codes", "scale", "error", "exact")
    )
    n, d = exact.shape
    if codes.shape != (n, -(-d // 64) * 64) or scale.shape != (n,) or error.shape != (n,) or not n:
        raise BankError(f"the shapes of {label}")
    norm, error_max = scalars.numbers(label, 0.0, 2.0, count=2)
    if not 0 <= error_max < 2 or not 0 < norm < 2:
        raise BankError(f"the norms of {label}")
    return score.QuantizedRows(codes, scale, error, exact, norm, error_max) if quantized else exact
