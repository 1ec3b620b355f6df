"""`python -m export openvino`: a checkpoint as OpenVINO IR, float16 weights or INT8.

INT8 is that of `export int8`, which writes the same file. NNCF (`--nncf`, mixed preset) is kept for
comparison: its range per channel in front of depthwise convolutions makes OpenVINO run those in
float, with a conversion around each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino.passes import ConstantFolding, Manager

from export.data import open_pack
from export.ir import to_ir
from export.irfile import save, size_of
from export.quantize import calibration_rows, quantized
from export.teachers import to_input
from export.to_onnx import load_network, to_onnx

FLOAT_NODES = ["norm", "norm.safe", "embedding"]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export openvino", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="target .xml, .bin beside it")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--nncf", action="store_true", help="with --int8: quantized by NNCF")
    parser.add_argument("--pack", type=Path, help="training pack to calibrate on, with --int8")
    parser.add_argument("--count", type=int, default=512, help="calibration faces")
    args = parser.parse_args(argv)
    if args.int8 and args.pack is None:
        print("openvino: --int8 needs --pack", file=sys.stderr)
        return 2
    if not args.checkpoint.exists():
        print(f"openvino: no checkpoint {args.checkpoint}", file=sys.stderr)
        return 2
    network, about = load_network(args.checkpoint)
    if args.int8 and not args.nncf:
        model = to_ir(quantized(network, args.pack, count=args.count))
    else:
        model = ov.Core().read_model(to_onnx(network, native_prelu=True).SerializeToString())
        folding = Manager()  # reading ONNX leaves the shapes of weights to be worked out at load
        folding.register_pass(ConstantFolding())
        folding.run_passes(model)
    if args.nncf:
        import nncf

        data = open_pack(args.pack)
        images = to_input(np.asarray(data.images[calibration_rows(data, args.count)]))
        model = nncf.quantize(
            model,
            nncf.Dataset(list(images), lambda x: x[None]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=FLOAT_NODES, validate=False),
        )
    own = args.int8 and not args.nncf
    save(model, args.out, preferred=own, half=not own)
    print(
        f"openvino: {args.out} {size_of(args.out):,} bytes, {about['network']} "
        f"step {about['step']}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
