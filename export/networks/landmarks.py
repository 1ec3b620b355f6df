"""The network that reads five points in a small upright patch of one face.

Plain 3×3 convolutions with few channels, as in the detector, down to 4×4 cells; one convolution
over all of them then says where the points are and whether an upright face is there at all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeface.detect.landmarks import EYES, SIDE
from edgeface.detect.pose import HEAD
from export.networks.detector import ConvBlock

ANSWERS = 11  # five points x, y, then the logit of an upright face


class PointNetwork(nn.Module):
    """Raw BGR patches (n, 3, `SIDE`, `SIDE`) float32 0..255 to (n, 11): x, y of five points in px
    of the patch, and a logit."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(3, 16, stride=2),
            ConvBlock(16, 32, stride=2),
            ConvBlock(32, 32, residual=True),
            ConvBlock(32, 32, stride=2),
            ConvBlock(32, 32, residual=True),
            ConvBlock(32, 32, residual=True),
            ConvBlock(32, 64, stride=2),
            ConvBlock(64, 64, groups=64),
            ConvBlock(64, 64, kernel=1),
        )
        self.head = nn.Conv2d(64, ANSWERS, SIDE // 16)
        self.scale = 1 / 255
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.005)
        nn.init.zeros_(self.head.bias)
        middle = torch.from_numpy(HEAD[:, :2] - HEAD[:, :2].mean(0)) * EYES + (SIDE - 1) / 2
        self.unit: Tensor
        self.mean: Tensor
        self.register_buffer("unit", torch.tensor([EYES] * 10 + [1.0]).reshape(1, -1, 1, 1))
        start = torch.cat([middle.flatten().float(), torch.zeros(1)])
        self.register_buffer("mean", start.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x * self.scale if self.scale != 1 else x)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 rounds to a tenth of a pixel
            return (self.head(seen.float()) * self.unit + self.mean).flatten(1)

    @torch.no_grad()
    def fuse(self) -> PointNetwork:
        """Fold batch norms, scales and mean into the weights, in place; eval mode only."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.fuse()
        first = self.body[0]
        assert isinstance(first, ConvBlock)
        first.conv.weight *= self.scale
        assert self.head.bias is not None
        self.head.weight *= self.unit.reshape(-1, 1, 1, 1)
        self.head.bias.copy_(self.head.bias * self.unit.flatten() + self.mean.flatten())
        self.scale = 1
        self.unit.fill_(1)
        self.mean.zero_()
        return self
