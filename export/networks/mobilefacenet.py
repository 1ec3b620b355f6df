"""MobileFaceNet, MobileFaceNetv2 and the edge variant, as one chain of named blocks.

Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
Devices", table 1; v2 adds depthwise-pointwise residual blocks at 7×7. Input is RGB float32 0..255
(n, 3, 112, 112), scaled to [-1, 1] inside; output is the embedding before L2 normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from export.fused import norm_act, pointwise


class ConvBN(nn.Sequential):
    """Convolution without bias, batch normalisation, activation (`prelu`, `relu` or `none`)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        padding: int | None = None,
        activation: str = "prelu",
    ) -> None:
        pad = kernel // 2 if padding is None else padding
        groups = inputs if depthwise else 1
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        if activation == "prelu":
            layers.append(nn.PReLU(outputs))
        elif activation == "relu":
            layers.append(nn.ReLU())
        elif activation != "none":
            raise ValueError(f"activation {activation!r}: expected prelu, relu or none")
        super().__init__(*layers)
        self.plain = kernel == 1 and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = self[0], self[1]
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        y = pointwise(convolution, x) if self.plain else convolution(x)
        return norm_act(y, norm, self[2] if len(self) > 2 else None)


class Bottleneck(nn.Module):
    """Inverted residual: 1×1 up to `hidden`, 3×3 depthwise with `stride`, linear 1×1 down; plus the
    input where stride is 1 and the widths agree."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, stride: int, *, activation: str = "prelu"
    ) -> None:
        super().__init__()
        self.expand = ConvBN(inputs, hidden, activation=activation)
        self.depthwise = ConvBN(hidden, hidden, 3, stride, depthwise=True, activation=activation)
        self.project = ConvBN(hidden, outputs, activation="none")
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MeshBlock(nn.Module):
    """MobileFaceNetv2's extra block at 7×7: PReLU(x + BN(pointwise(depthwise(x)))), the batch
    normalisation inside the branch so that it folds into the convolution."""

    def __init__(self, width: int, *, activation: str = "prelu") -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.activation = nn.PReLU(width) if activation == "prelu" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(x + self.norm(self.pointwise(self.depthwise(x))))
        return out


class Head(nn.Module):
    """1×1 up to `hidden`, global depthwise 7×7, linear to the embedding, batch normalisation."""

    def __init__(
        self, inputs: int, hidden: int, embedding: int, *, activation: str = "prelu"
    ) -> None:
        super().__init__()
        self.expand = ConvBN(inputs, hidden, activation=activation)
        self.pool = ConvBN(hidden, hidden, 7, depthwise=True, padding=0, activation="none")
        self.linear = nn.Linear(hidden, embedding, bias=False)
        self.norm = nn.BatchNorm1d(embedding)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.linear(self.pool(self.expand(x)).flatten(1)))
        return out


class Stem(nn.Sequential):
    """3×3 stride 2 from RGB, then 3×3 depthwise: 112×112 to 56×56."""

    def __init__(self, width: int, *, activation: str = "prelu") -> None:
        super().__init__(
            ConvBN(3, width, 3, 2, activation=activation),
            ConvBN(width, width, 3, depthwise=True, activation=activation),
        )


class DenseStem(nn.Sequential):
    """Two dense 3×3 stride 2: 112×112 to 28×28 with hardly a map at high resolution. A dense INT8
    convolution costs a CPU less than the three separable layers it stands for."""

    def __init__(self, narrow: int, width: int, *, activation: str = "relu") -> None:
        super().__init__(
            ConvBN(3, narrow, 3, 2, activation=activation),
            ConvBN(narrow, width, 3, 2, activation=activation),
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """`repeat` bottlenecks to `width` channels, `hidden` inside, the first with `stride` and
    `first_hidden` inside."""

    width: int
    stride: int
    first_hidden: int
    hidden: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Spec:
    """A network of this family: stem width, stages, extra v2 blocks, head width, activation; with
    `dense_stem` the stem goes straight to the first stage's width and resolution."""

    stem: int
    stages: tuple[Stage, ...]
    head: int = 512
    embedding: int = 128
    activation: str = "prelu"
    mesh: int = 0
    dense_stem: bool = False


SPECS = {
    "mobilefacenet": Spec(
        64, (Stage(64, 2, 128, 128, 4), Stage(128, 2, 256, 256, 6), Stage(128, 2, 512, 256, 2))
    ),
    "mobilefacenetv2": Spec(
        64,
        (Stage(64, 2, 128, 128, 4), Stage(128, 2, 256, 256, 6), Stage(128, 2, 512, 256, 2)),
        mesh=4,
    ),
    "mobilefacenet-edge": Spec(
        16,
        (Stage(64, 2, 64, 64, 2), Stage(128, 2, 128, 256, 3), Stage(128, 2, 256, 256, 2)),
        activation="relu",
        dense_stem=True,
    ),
}


class MobileFaceNet(nn.Module):
    """The chain `blocks` (name → module); `boundaries` are the names whose outputs a teacher of the
    same stage widths can supply: see `chain`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        kind = {"activation": spec.activation}
        first = spec.stages[0].width
        blocks: dict[str, nn.Module] = {
            "stem": DenseStem(spec.stem, first, **kind)
            if spec.dense_stem
            else Stem(spec.stem, **kind)
        }
        width = first if spec.dense_stem else spec.stem
        for number, stage in enumerate(spec.stages, start=1):
            last = number == len(spec.stages)
            if number > 1 or not spec.dense_stem:
                blocks[f"down{number}"] = Bottleneck(
                    width, stage.first_hidden, stage.width, stage.stride, **kind
                )
            width = stage.width
            mesh = spec.mesh if last else 0
            for i in range(mesh):
                blocks[f"mesh{number}_{i}"] = MeshBlock(width, **kind)
            for i in range(stage.repeat):
                blocks[f"res{number}_{i}"] = Bottleneck(width, stage.hidden, width, 1, **kind)
            for i in range(mesh):
                blocks[f"mesh{number}_{mesh + i}"] = MeshBlock(width, **kind)
        blocks["head"] = Head(width, spec.head, spec.embedding, **kind)
        self.blocks = nn.ModuleDict(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = (image - 127.5) / 127.5
        for block in self.blocks.values():
            x = block(x)
        return x

    def chain(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(name, output) of every block in order."""
        x = (image - 127.5) / 127.5
        for name, block in self.blocks.items():
            x = block(x)
            yield name, x


def build(name: str) -> MobileFaceNet:
    """A freshly initialised network of `SPECS`."""
    if name not in SPECS:
        raise ValueError(f"no network {name!r}; one of {', '.join(SPECS)}")
    return MobileFaceNet(SPECS[name])
