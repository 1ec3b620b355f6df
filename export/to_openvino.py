"""`python -m export openvino`: a checkpoint as OpenVINO IR, float16 weights or INT8 by NNCF.

PReLU stays a PRelu node here: OpenVINO fuses it into the convolution. INT8 as in `export int8`:
mixed preset, clean faces of many identities, normalisation to unit length left float.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import openvino as ov

from export.data import open_pack
from export.quantize import FLOAT_NODES, calibration_rows
from export.teachers import to_input
from export.to_onnx import load_network, to_onnx


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export openvino", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="target .xml, .bin beside it")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--pack", type=Path, help="training pack to calibrate on, with --int8")
    parser.add_argument("--count", type=int, default=600, help="calibration faces")
    args = parser.parse_args(argv)
    if args.int8 and args.pack is None:
        print("openvino: --int8 needs --pack", file=sys.stderr)
        return 2
    network, about = load_network(args.checkpoint)
    model = ov.Core().read_model(to_onnx(network, native_prelu=True).SerializeToString())
    if args.int8:
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
    ov.save_model(model, str(args.out), compress_to_fp16=True)
    size = args.out.stat().st_size + args.out.with_suffix(".bin").stat().st_size
    print(
        f"openvino: {args.out} {size:,} bytes, {about['network']} step {about['step']}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
