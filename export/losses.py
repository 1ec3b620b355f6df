"""Losses of face embedding: margins over classes, pairs, triplets, and distillation.

Every function takes float tensors and returns a scalar mean; embeddings need not be unit length,
each loss normalises what its paper normalises.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def arcface_logits(
    cosine: Tensor, label: Tensor, *, margin: float = 0.5, scale: float = 64.0
) -> Tensor:
    """Logits with an additive angular margin at the target (Deng et al. 2019, eq. 3).

    `cosine` (n, classes), clamped to (-1, 1) so that the gradient of sqrt(1 − cos²) stays finite.
    Where θ + m would pass π, cos(θ + m) turns around; there the target is cos θ − m·sin m, the
    tangent-side continuation, so the logit keeps falling with θ.
    """
    c = cosine.clamp(-1 + 1e-6, 1 - 1e-6)
    target = c.gather(1, label[:, None])
    sine = (1 - target.square()).sqrt()
    moved = target * math.cos(margin) - sine * math.sin(margin)
    beyond = target < math.cos(math.pi - margin)
    moved = torch.where(beyond, target - margin * math.sin(margin), moved)
    return scale * c.scatter(1, label[:, None], moved)


def cosface_logits(
    cosine: Tensor, label: Tensor, *, margin: float = 0.35, scale: float = 64.0
) -> Tensor:
    """Logits with an additive cosine margin at the target (Wang et al. 2018, eq. 4)."""
    onehot = functional.one_hot(label, cosine.shape[1]).to(cosine.dtype)
    return scale * (cosine - margin * onehot)


class MarginHead(nn.Module):
    """Class prototypes and a margin loss; with `centres` > 1 each class has several and the nearest
    counts (sub-centre ArcFace, Deng et al. 2020), which absorbs label noise."""

    def __init__(
        self,
        embedding: int,
        classes: int,
        *,
        kind: str = "arcface",
        margin: float = 0.5,
        scale: float = 64.0,
        centres: int = 1,
    ) -> None:
        super().__init__()
        if kind not in {"arcface", "cosface"}:
            raise ValueError(f"kind {kind!r}: expected arcface or cosface")
        self.logits = arcface_logits if kind == "arcface" else cosface_logits
        self.margin, self.scale, self.centres = margin, scale, centres
        self.weight = nn.Parameter(torch.empty(classes * centres, embedding))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        cosine = functional.normalize(embedding, dim=1) @ functional.normalize(self.weight, dim=1).T
        if self.centres > 1:
            cosine = cosine.unflatten(1, (-1, self.centres)).amax(2)
        logits = self.logits(cosine, label, margin=self.margin, scale=self.scale)
        return functional.cross_entropy(logits, label)


def contrastive(a: Tensor, b: Tensor, same: Tensor, *, margin: float = 1.0) -> Tensor:
    """½·[same·d² + (1 − same)·max(0, margin − d)²], d the Euclidean distance of unit embeddings
    (Hadsell et al. 2006, eq. 4)."""
    difference = functional.normalize(a, dim=1) - functional.normalize(b, dim=1)
    distance = (difference.square().sum(1) + 1e-12).sqrt()
    apart = (margin - distance).clamp(min=0).square()
    return 0.5 * torch.where(same.bool(), distance.square(), apart).mean()


def triplet_batch_hard(embedding: Tensor, label: Tensor, *, margin: float = 0.2) -> Tensor:
    """Mean over anchors of max(0, farthest positive − nearest negative + margin), Euclidean on unit
    embeddings (Hermans et al. 2017, eq. 5), for a P×K batch. Anchors without a positive or without
    a negative are left out; ValueError if none is left."""
    unit = functional.normalize(embedding, dim=1)
    distance = ((2 - 2 * unit @ unit.T).clamp(min=0) + 1e-12).sqrt()
    same = label[:, None] == label[None, :]
    positive = same & ~torch.eye(len(label), dtype=torch.bool, device=label.device)
    usable = positive.any(1) & (~same).any(1)
    if not bool(usable.any()):
        raise ValueError("the batch has no anchor with both a positive and a negative")
    far = distance.masked_fill(~positive, -math.inf).amax(1)
    near = distance.masked_fill(same, math.inf).amin(1)
    return (far[usable] - near[usable] + margin).clamp(min=0).mean()


def embedding_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cosine to the teacher's embedding."""
    return (1 - functional.cosine_similarity(student, teacher, dim=1)).mean()


def relational_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the two batches' cosine matrices off the diagonal (relational
    knowledge distillation, Park et al. 2019, with cosines for distances); widths may differ."""
    n = len(student)
    if n < 2:
        raise ValueError(f"relations need at least two embeddings, got {n}")
    a, b = functional.normalize(student, dim=1), functional.normalize(teacher, dim=1)
    return (a @ a.T - b @ b.T).square().sum() / (n * (n - 1))
