"""`python -m export int8`: a checkpoint as INT8 QDQ ONNX, one file for both runtimes.

Weights int8 per output channel, activations uint8 per tensor ("mixed" preset: symmetric weights,
asymmetric activations, which PReLU's signed outputs need), calibrated on clean faces, at most one
per identity; normalisation to unit length stays float. `--method onnxruntime` uses
onnxruntime.quantization (the maintained home of what was onnxruntime-tools), `nncf` (default) NNCF,
which corrects the biases and quantizes only where both runtimes fuse.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from export.data import Pack, open_pack
from export.teachers import to_input
from export.to_onnx import load_network, to_onnx
from export.training import hold_out

FLOAT_NODES = ["norm", "norm.safe", "embedding"]


def calibration_rows(data: Pack, count: int, seed: int = 0) -> NDArray[np.int64]:
    """`count` training rows, shuffled, at most one per known identity."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(~hold_out(data) & data.keep))
    seen: set[int] = set()
    chosen = []
    for row in rows:
        person = int(data.identity[row])
        if person >= 0 and person in seen:
            continue
        seen.add(person)
        chosen.append(int(row))
        if len(chosen) == count:
            break
    return np.array(chosen)


def by_nncf(model: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    dataset = nncf.Dataset(list(images), lambda x: {"image": x[None]})
    return nncf.quantize(
        model,
        dataset,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        fast_bias_correction=True,
        # The whole range: the default averages the extremes, which cuts off unusual faces.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
        ignored_scope=nncf.IgnoredScope(names=FLOAT_NODES, validate=False),
    )


def by_onnxruntime(model: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.float32]] = iter(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        onnx.save(model, str(source))
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Gemm", "Add"],
            nodes_to_exclude=[*FLOAT_NODES, "input.centred", "input.scaled"],
        )
        return onnx.load(str(target))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export int8", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pack", type=Path, required=True, help="training pack to calibrate on")
    parser.add_argument("--out", type=Path, required=True, help="target .onnx")
    parser.add_argument("--count", type=int, default=600, help="calibration faces")
    parser.add_argument("--method", choices=["nncf", "onnxruntime"], default="nncf")
    parser.add_argument("--rewrite-prelu", action="store_true", help="PReLU as relu and products")
    args = parser.parse_args(argv)
    data = open_pack(args.pack)
    images = to_input(np.asarray(data.images[calibration_rows(data, args.count)]))
    network, about = load_network(args.checkpoint)
    model = to_onnx(network, native_prelu=not args.rewrite_prelu)
    quantized = (by_nncf if args.method == "nncf" else by_onnxruntime)(model, images)
    onnx.save(quantized, str(args.out))
    size = args.out.stat().st_size
    print(
        f"int8: {args.out} {size:,} bytes, {about['network']} step {about['step']}", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
