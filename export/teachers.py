"""`python -m export targets`: a teacher's embeddings of every picture of a pack, undegraded.

Teachers are ONNX embedders run for their outputs, in OpenVINO, never for their weights.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from export.data import open_pack

# Tensors of the teacher at the block boundaries of our MobileFaceNet, teacher file stem → block →
# tensor. Only teachers of the same topology have them.
BOUNDARIES: dict[str, dict[str, str]] = {
    "mobilefacenet_y1": {
        "stem": "conv_2_dw_relu_o",
        "down1": "dconv_23_conv_proj_batchnorm_o",
        **{f"res1_{i}": f"_plus{i}_o" for i in range(4)},
        "down2": "dconv_34_conv_proj_batchnorm_o",
        **{f"res2_{i}": f"_plus{4 + i}_o" for i in range(6)},
        "down3": "dconv_45_conv_proj_batchnorm_o",
        **{f"res3_{i}": f"_plus{10 + i}_o" for i in range(2)},
        "head": "fc1_o",
    }
}

# Which of the teacher's blocks a smaller network's block stands for: its output has that block's
# width and resolution. Networks not listed have the teacher's own blocks.
STANDS_FOR: dict[str, dict[str, str]] = {
    "mobilefacenet-edge": {
        "stem": "down1",
        "res1_0": "res1_1",
        "res1_1": "res1_3",
        "res2_0": "res2_1",
        "res2_1": "res2_3",
        "res2_2": "res2_5",
    }
}

# (mean, scale) of the input: network input = (RGB 0..255 − mean) · scale.
INPUTS: dict[str, tuple[float, float]] = {
    "mobilefacenet_y1": (0.0, 1.0),
    "mobileface_v2": (0.0, 1.0),
    "edgeface_xs": (127.5, 1 / 127.5),
    "mobilefacenet": (0.0, 1.0),  # our own, so that a network trained further keeps what it knows
}


def boundaries(teacher: str, network: str, blocks: list[str]) -> dict[str, str]:
    """Student block → teacher tensor for those of `blocks` that have one."""
    table, other = BOUNDARIES.get(teacher, {}), STANDS_FOR.get(network, {})
    return {b: table[other.get(b, b)] for b in blocks if other.get(b, b) in table}


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A compiled teacher: `outputs` are the block names (or `embedding`) it returns, in order."""

    compiled: ov.CompiledModel
    outputs: tuple[str, ...]
    batch: int
    mean: float
    scale: float

    def __call__(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Outputs for RGB float32 0..255 (batch, 3, 112, 112); copies, the caller's to keep."""
        fed = image if (self.mean, self.scale) == (0.0, 1.0) else (image - self.mean) * self.scale
        answer = self.compiled(np.ascontiguousarray(fed, np.float32))
        return {name: np.array(answer[i]) for i, name in enumerate(self.outputs)}


def open_teacher(
    path: Path,
    batch: int,
    *,
    tensors: dict[str, str] | None = None,
    threads: int = 1,
    bf16: bool = True,
) -> Teacher:
    """Compile `path` for a fixed batch; with `tensors` (name → tensor of the graph) those are
    returned, otherwise only `embedding`."""
    core = ov.Core()
    model = core.read_model(str(path))
    if tensors:
        known = {n: o for op in model.get_ops() for o in op.outputs() for n in o.get_names()}
        if missing := [t for t in tensors.values() if t not in known]:
            raise ValueError(f"{path.name} has no tensor {', '.join(missing)}")
        nodes = [known[t] for t in tensors.values()]
        model = ov.Model(nodes, model.get_parameters(), path.stem)
    model.reshape([batch, 3, 112, 112])
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
    }
    mean, scale = INPUTS.get(path.stem, (127.5, 1 / 127.5))
    compiled = core.compile_model(model, "CPU", settings)
    return Teacher(compiled, tuple(tensors or ["embedding"]), batch, mean, scale)


def to_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 112, 112, 3) uint8 BGR → (n, 3, 112, 112) float32 RGB 0..255."""
    return np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2), np.float32)


def run_teacher(teacher: Teacher, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings of all `images`, the last batch padded."""
    rows = []
    for i in range(0, len(images), teacher.batch):
        part = to_input(images[i : i + teacher.batch])
        pad = np.concatenate([part, np.zeros((teacher.batch - len(part), *part.shape[1:]), "f4")])
        rows.append(next(iter(teacher(pad).values()))[: len(part)])
    return np.concatenate(rows)


def target_file(pack: Path, teacher: Path) -> Path:
    """Where the cached embeddings of `pack` by `teacher` lie."""
    return pack.with_suffix(f".{teacher.stem}.npy")


def clean_targets(
    teacher: Teacher, images: NDArray[np.uint8], *, mirrored: bool = True
) -> NDArray[np.float16]:
    """(n, width) unit mean of the embeddings of every picture and, where `mirrored`, of its mirror
    image: an aim that does not depend on the side the light falls from."""
    rows = []
    for i in range(0, len(images), 1024):
        part = np.asarray(images[i : i + 1024])
        views = [part, part[:, :, ::-1]] if mirrored else [part]
        pair = [run_teacher(teacher, view) for view in views]
        both = sum(e / np.linalg.norm(e, axis=1, keepdims=True) for e in pair)
        rows.append((both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float16))
        print(f"\rtargets: {i + len(part)}/{len(images)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return np.concatenate(rows)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export targets", description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="pack made by `export pack`")
    parser.add_argument("--teacher", type=Path, nargs="+", required=True, help="teacher ONNX")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-view", action="store_true", help="no mirror image: half the time")
    args = parser.parse_args(argv)
    for path in (*args.teacher, args.pack.with_suffix(".npy")):
        if not path.exists():
            print(f"targets: no file {path}", file=sys.stderr)
            return 2
    images = open_pack(args.pack).images
    for path in args.teacher:
        teacher = open_teacher(path, 32, threads=args.threads)
        found = clean_targets(teacher, images, mirrored=not args.one_view)
        np.save(target_file(args.pack, path), found)
    return 0
