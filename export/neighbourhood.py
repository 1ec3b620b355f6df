"""Learn a transformer over the neighbours of one face as the first pass of an edge model.

After the similarity prediction of Chen et al., On Mitigating Hard Clusters for Face Clustering,
ECCV 2022, whose released code attends across the faces of a minibatch instead; here the batch is
one (`tests/test_export_neighbourhood.py`). What it sees, and how edgeface runs it, says
`edgeface.cluster.attention`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface.cluster.attention import Transformer
from edgeface.cluster.model import FEATURES

if TYPE_CHECKING:
    from export.similarity import Case

WIDTH, HEADS, LAYERS = 32, 4, 2
STEPS, ANCHORS, RATE = 1500, 96, 2e-3


class Layer(nn.Module):
    """Pre-norm attention with an additive bias per head, and a feed-forward step."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.inward, self.outward = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.forth, self.back = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.closeness = nn.Parameter(torch.full((HEADS,), 0.2))

    def forward(self, tokens: Tensor, closeness: Tensor) -> Tensor:
        heads = self.inward(self.before(tokens)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = queries @ keys.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        scores = scores + self.closeness[:, None, None] * closeness[:, None]
        mixed = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
        tokens = tokens + self.outward(mixed)
        return tokens + self.back(torch.relu(self.forth(self.after(tokens))))


class NeighbourhoodTransformer(nn.Module):
    """`features` (b, k, f) of the edges of b faces, the face itself first, and `closeness`
    (b, k, k) of their neighbours, to logits (b, k); k at most the number of ranks."""

    def __init__(self, k: int, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))
        self.embed = nn.Linear(len(FEATURES), WIDTH)
        self.rank = nn.Parameter(torch.randn(k, WIDTH) * 0.1)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.last = nn.LayerNorm(WIDTH)
        self.judge = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))

    def forward(self, features: Tensor, closeness: Tensor) -> Tensor:
        ranks = self.rank[: features.shape[1]]
        tokens = self.embed((features - self.mean) / self.scale) + ranks
        for layer in self.layers:
            tokens = layer(tokens, closeness)
        tokens = self.last(tokens)
        anchor = tokens[:, :1].expand_as(tokens)
        logits: Tensor = self.judge(torch.cat([anchor, tokens], dim=2))[..., 0]
        return logits


def inputs(case: Case, nodes: NDArray[np.int32]) -> tuple[Tensor, Tensor]:
    """What the network is given of `nodes` (m,)."""
    around = case.around
    return torch.tensor(around.features(nodes)), torch.tensor(around.closeness(nodes))


def trained(of: list[Case], seed: int) -> NeighbourhoodTransformer:
    """Minimise the weighted cross-entropy with every group of sets weighing the same; of small sets
    the first ranks are learned."""
    from export.similarity import BALANCE

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    k = max(c.around.near.indices.shape[1] for c in of)
    by_group: dict[tuple[str, str], list[Case]] = {}
    for case in of:
        by_group.setdefault(case.group, []).append(case)
    sample = np.concatenate(
        [
            cs[0].around.features(cs[0].nodes[:200]).reshape(-1, len(FEATURES))
            for cs in by_group.values()
        ]
    )
    network = NeighbourhoodTransformer(k, sample.mean(axis=0), sample.std(axis=0) + 1e-3)
    optimiser = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    groups = list(by_group.values())
    for step in range(STEPS):
        group = groups[step % len(groups)]
        faces = np.array([len(c.nodes) for c in group])
        case = group[int(rng.choice(len(group), p=faces / faces.sum()))]
        nodes = np.sort(rng.choice(case.nodes, min(ANCHORS, len(case.nodes)), replace=False))
        sizes = np.bincount(case.labels)[case.labels[nodes]]
        same = case.labels[case.around.near.indices[nodes]] == case.labels[nodes, None]
        weight = np.where(same, np.maximum(sizes - 1, 1)[:, None] ** -BALANCE, 1.0)
        weight[:, 0] = 0.0
        loss = nn.functional.binary_cross_entropy_with_logits(
            network(*inputs(case, nodes)),
            torch.tensor(same.astype(np.float32)),
            weight=torch.tensor((weight / weight.mean()).astype(np.float32)),
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 250 == 0:
            print(f"transformer: step {step} loss {loss.item():.4f}", file=sys.stderr)
    return network.eval()


def plain(network: NeighbourhoodTransformer) -> Transformer:
    """The network as edgeface runs it, without torch."""
    weights = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
    return Transformer(HEADS, LAYERS, weights)
