"""The network that fuses faces, after CAFace (Kim et al., NeurIPS 2022), and its training."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor, nn

from export.fusion_sets import FLOOR, Crowd, Floats, Rows
from export.protocols.clips import Features

CENTRES, WIDTH, BATCH = 4, 64, 128
EDGE = 1e-3  # added to the deviation of a column, lest a constant one be divided by nothing


def looks(features: Features, names: tuple[str, ...]) -> Floats:
    """Columns (n, e) of `embedding`, `style` and `norm`, side by side, as z-scores of clips."""
    columns = {
        "embedding": features.embedding,
        "style": features.style,
        "norm": np.log(features.norm)[:, None],
    }
    whole = np.concatenate([columns[name] for name in names], axis=1)
    seen = whole[features.clip >= 0]
    return np.asarray((whole - seen.mean(axis=0)) / (seen.std(axis=0) + EDGE), np.float32)


class Update(nn.Module):
    """What faces add to a state; see `edgeface.aggregate.Looks`."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.first = nn.Linear(looks + 2, WIDTH)
        self.token = nn.Sequential(
            nn.PReLU(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()
        )
        anchors = torch.empty(CENTRES, WIDTH)
        nn.init.orthogonal_(anchors)
        self.anchors = nn.Parameter(anchors * WIDTH**0.5)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)

    def forward(self, looks: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shares (..., m), tokens (..., w) and weights (..., 1) of faces with `looks` (..., e) and
        `quality` (..., 1)."""
        floored = (quality + FLOOR).log()
        x = self.token(self.first(torch.cat([looks, quality, floored], -1)))
        weight = (self.weight(x) + floored).exp()
        share = (self.key(x) @ self.anchors.T / WIDTH**0.5).softmax(-1)
        return share * weight, x, weight


class Readout(nn.Module):
    """The first estimate of a template: per channel a convex combination of the centres' means."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.anchors = nn.Parameter(torch.randn(CENTRES, WIDTH) * 0.1)
        self.mix = nn.Sequential(nn.Linear(2 * WIDTH + 2, 2 * WIDTH), nn.GELU())
        self.channels = nn.Linear(4 * WIDTH, size)
        nn.init.zeros_(self.channels.weight)
        nn.init.zeros_(self.channels.bias)

    def forward(self, total: Tensor, mass: Tensor, tokens: Tensor) -> Tensor:
        """Unit rows (b, d) of states with sums (b, m, d), (b, m), (b, m, w)."""
        mass = mass[..., None]
        mean = total / (mass + 1e-12)
        agreement = mean.square().sum(-1, keepdim=True).sqrt()
        anchors = self.anchors.expand(len(mass), -1, -1)
        about = [anchors, tokens / (mass + 1e-12), agreement, (mass + 1.0).log()]
        h = self.mix(torch.cat(about, -1))
        h = torch.cat([h, h.mean(1, keepdim=True).expand_as(h)], -1)
        share = (self.channels(h) + (mass + 1e-12).log()).softmax(1)
        return (share * mean).sum(1)


class Fusion(nn.Module):
    """Both networks, for sets of one size. `columns` are the `looks` it goes by."""

    def __init__(self, size: int, columns: Floats) -> None:
        super().__init__()
        self.columns = columns
        self.update, self.readout = Update(columns.shape[1]), Readout(size)

    def forward(self, features: Features, rows: Rows) -> Tensor:
        """Templates (s, d) of sets of rows (s, n)."""
        values = torch.from_numpy(features.embedding[rows])
        quality = torch.from_numpy(features.quality[rows][..., None])
        share, token, weight = self.update(torch.from_numpy(self.columns[rows]), quality)
        total = torch.einsum("snm,snd->smd", share, values)
        tokens = torch.einsum("snm,snw->smw", share, token)
        mean = self.readout(total, share.sum(1), tokens)
        cosine = torch.einsum("snd,sd->sn", values, nn.functional.normalize(mean, dim=-1))
        agreed = torch.einsum("sn,snd->sd", weight[..., 0] * cosine, values)
        return nn.functional.normalize(agreed, dim=-1)


def train(crowd: Crowd, columns: Floats, iterations: int, seed: int = 0) -> Fusion:
    """A network that tells people apart: each fused set among the good pictures of its batch
    (softmax over cosines), plus the distance to its own."""
    torch.manual_seed(seed)
    rng, f = np.random.default_rng(seed), crowd.features
    network = Fusion(f.embedding.shape[1], columns)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=iterations)
    rich = crowd.rich(16)
    for iteration in range(iterations):
        n, share = int(rng.choice([2, 4, 8, 16])), float(rng.choice([0.0, 0.0, 0.1, 0.3]))
        people = crowd.people if n <= 8 or not len(rich) else rich
        chosen = rng.choice(people, min(BATCH, len(people)), replace=False)
        drawn = [crowd.one(int(p), n, share, rng) for p in chosen]
        kept = [(frames, good) for frames, good in drawn if len(frames) == n]
        if len(kept) < 2:  # nobody to be told apart
            continue
        fused = network(f, np.stack([frames for frames, _ in kept]))
        cosine = fused @ torch.from_numpy(f.embedding[[g for _, g in kept]]).T
        loss = nn.functional.cross_entropy(24.0 * cosine, torch.arange(len(kept)))
        loss = loss + (1.0 - cosine.diagonal()).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if iteration % 100 == 0:
            print(f"fusion: {iteration} loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return network.eval()
