"""The five-landmark face detector: anchor-free, one prediction per cell at strides 8, 16 and 32.

The grid and the box code are those of YuNet (Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level
Face Detector", 2023), so a YuNet teacher can be matched cell by cell with no label assignment.
The body is our own: plain 3×3 convolutions with few channels instead of depthwise-separable ones,
because a CPU runs a dense convolution of 16 to 64 channels near its peak and a depthwise one at
memory speed, and because all but two layers work at stride 8 or coarser.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDES = (8, 16, 32)
CHANNELS = 15  # score logit, box (dx, dy, log w, log h), five landmarks (x, y)
PRIOR = 0.01  # share of cells that see a face when training starts, as in RetinaNet (2017) §4.1


class ConvBlock(nn.Module):
    """k×k convolution, batch norm, ReLU; adds its input before the ReLU where shapes allow."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.conv: nn.Conv2d = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return nn.functional.relu(y + x if self.residual else y)

    def fuse(self) -> None:
        """Fold the batch norm into the convolution (exact in eval mode)."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class FaceDetector(nn.Module):
    """Raw BGR images (n, 3, H, W) float32 0..255, sides multiples of 32, to one map per stride.

    Each map is (n, 15, H/s, W/s): score logit; box centre offset from the cell's corner and log
    size, landmark offsets from the cell's corner, all in units of the stride s.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int, int] = (16, 16, 32, 64, 64),
        depths: tuple[int, int, int] = (2, 2, 2),
        neck: int = 64,
    ) -> None:
        super().__init__()
        c2, c4, *outer = widths
        self.stem = nn.Sequential(ConvBlock(3, c2, stride=2), ConvBlock(c2, c4, stride=2))
        self.stages = nn.ModuleList()
        for inputs, outputs, depth in zip(widths[1:], outer, depths, strict=False):
            blocks = [ConvBlock(outputs, outputs, residual=True) for _ in range(depth)]
            self.stages.append(nn.Sequential(ConvBlock(inputs, outputs, stride=2), *blocks))
        self.laterals = nn.ModuleList(ConvBlock(c, neck, kernel=1) for c in outer)
        self.mixers = nn.ModuleList(
            nn.Sequential(ConvBlock(neck, neck, groups=neck), ConvBlock(neck, neck, kernel=1))
            for _ in STRIDES
        )
        self.heads = nn.ModuleList(nn.Conv2d(neck, CHANNELS, 1) for _ in STRIDES)
        self.scale = 1 / 255  # no mean is subtracted: zero padding then stays black, folded or not
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
            head.bias.data[0] = -math.log((1 - PRIOR) / PRIOR)

    def body(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the stages of strides 8 and 16 see: nine tenths of a pass's arithmetic."""
        near = self.stages[0](self.stem(x * self.scale if self.scale != 1 else x))
        return near, self.stages[1](near)

    def features(self, near: Tensor, middle: Tensor) -> list[Tensor]:
        """What each head sees of `body`'s maps, (n, neck, H/s, W/s) per stride: a top-down pyramid
        by addition."""
        seen = (near, middle, self.stages[2](middle))
        levels = [lateral(x) for lateral, x in zip(self.laterals, seen, strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + nn.functional.interpolate(
                levels[i + 1], scale_factor=2.0, mode="nearest"
            )
        return [mixer(level) for mixer, level in zip(self.mixers, levels, strict=True)]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.answer(*self.body(x))

    def answer(self, near: Tensor, middle: Tensor) -> tuple[Tensor, ...]:
        """The maps of `forward` from those of `body`."""
        features = self.features(near, middle)
        # Offsets reach several strides; bfloat16 would round them by half a pixel and more.
        with torch.autocast(near.device.type, enabled=False):
            return tuple(h(f.float()) for h, f in zip(self.heads, features, strict=True))

    @torch.no_grad()
    def fuse(self) -> FaceDetector:
        """Fold batch norms and the input scale into the weights, in place; eval mode only."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.fuse()
        first = self.stem[0].conv
        first.weight *= self.scale
        self.scale = 1
        return self
