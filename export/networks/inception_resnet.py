"""Inception-ResNet-v1 for one-shot matching: Szegedy et al. 2017, "Inception-v4, Inception-ResNet
and the Impact of Residual Connections on Learning", figures 10-16, with the widths used for faces.

RGB float32 0..255 (n, 3, h, w), h and w at least 107, scaled to [-1, 1] inside; the output (n, 512)
is not normalised. In evaluation mode, and where `freeze_norms` was called in training too, batch
normalisation uses its running statistics, the last one included: a picture has one embedding,
whatever comes with it in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch normalisation (eps 1e-3), ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3),
            nn.ReLU(),
        )


class Residual(nn.Module):
    """x + scale · up(cat(branches(x))), then ReLU unless it is the last block."""

    def __init__(
        self, width: int, branches: list[nn.Module], inner: int, scale: float, *, last: bool = False
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.up = nn.Conv2d(inner, width, 1)
        self.scale, self.last = scale, last

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.scale * self.up(torch.cat([branch(x) for branch in self.branches], 1))
        return y if self.last else torch.relu(y)


class Reduction(nn.Module):
    """Branches of stride 2 side by side."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def block35() -> Residual:
    c = ConvNormReLU
    branches: list[nn.Module] = [
        c(256, 32),
        nn.Sequential(c(256, 32), c(32, 32, 3, 1, 1)),
        nn.Sequential(c(256, 32), c(32, 32, 3, 1, 1), c(32, 32, 3, 1, 1)),
    ]
    return Residual(256, branches, 96, 0.17)


def block17() -> Residual:
    c = ConvNormReLU
    wide = nn.Sequential(
        c(896, 128), c(128, 128, (1, 7), 1, (0, 3)), c(128, 128, (7, 1), 1, (3, 0))
    )
    return Residual(896, [c(896, 128), wide], 256, 0.10)


def block8(*, last: bool = False) -> Residual:
    c = ConvNormReLU
    wide = nn.Sequential(
        c(1792, 192), c(192, 192, (1, 3), 1, (0, 1)), c(192, 192, (3, 1), 1, (1, 0))
    )
    return Residual(1792, [c(1792, 192), wide], 384, 1.0 if last else 0.20, last=last)


def stem() -> nn.Sequential:
    c = ConvNormReLU
    return nn.Sequential(
        c(3, 32, 3, 2),
        c(32, 32, 3),
        c(32, 64, 3, 1, 1),
        nn.MaxPool2d(3, 2),
        c(64, 80),
        c(80, 192, 3),
        c(192, 256, 3, 2),
    )


def reduce_a() -> Reduction:
    c = ConvNormReLU
    deep = nn.Sequential(c(256, 192), c(192, 192, 3, 1, 1), c(192, 256, 3, 2))
    return Reduction([c(256, 384, 3, 2), deep, nn.MaxPool2d(3, 2)])


def reduce_b() -> Reduction:
    c = ConvNormReLU
    return Reduction(
        [
            nn.Sequential(c(896, 256), c(256, 384, 3, 2)),
            nn.Sequential(c(896, 256), c(256, 256, 3, 2)),
            nn.Sequential(c(896, 256), c(256, 256, 3, 1, 1), c(256, 256, 3, 2)),
            nn.MaxPool2d(3, 2),
        ]
    )


class InceptionResNetV1(nn.Module):
    """The whole network; see the module's text."""

    def __init__(self, *, embedding: int = 512, dropout: float = 0.6) -> None:
        super().__init__()
        self.features = nn.Sequential(
            stem(),
            *(block35() for _ in range(5)),
            reduce_a(),
            *(block17() for _ in range(10)),
            reduce_b(),
            *(block8() for _ in range(5)),
            block8(last=True),
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(1792, embedding, bias=False)
        self.norm = nn.BatchNorm1d(embedding, eps=1e-3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.features((image - 127.5) / 127.5).mean((2, 3))
        out: Tensor = self.norm(self.linear(self.dropout(x)))
        return out


def freeze_norms(network: nn.Module) -> None:
    """Batch normalisation on its running statistics; call again after every `train()`."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
