"""`python -m export VERB …`: each verb is one module's `main(argv)`, imported when asked for."""

from __future__ import annotations

import importlib
import sys

from edgeface.errors import EdgefaceError

VERBS = {
    "align": ("export.aligned", "cut the faces of ordinary pictures to aligned crops"),
    "pack": ("export.data", "decode aligned crops into one memory-mapped array"),
    "overlap": ("export.overlap", "leave out training identities that look like test identities"),
    "targets": ("export.teachers", "cache teachers' embeddings of the undegraded crops"),
    "distil": ("export.distil", "train an embedder from teachers' embeddings, no labels needed"),
    "init": ("export.init", "a shipped ONNX embedder as a checkpoint to train further"),
    "further": ("export.further", "train an embedder on towards several teachers' joint space"),
    "spread": ("export.spread", "use an embedding's directions more evenly, at no cost"),
    "curve": ("export.curve", "how far a training of `further` came, as a picture"),
    "train": ("export.train", "train an embedder, detector, siamese head or submodel heads"),
    "detector-labels": ("export.detector_labels", "label the detector's training pictures"),
    "detector": ("export.detector", "train the five-landmark face detector"),
    "landmarks-labels": ("export.landmarks_labels", "label five points in a pack's aligned crops"),
    "landmarks": (
        "export.landmarks",
        "train what reads five points in an upright patch",
    ),
    "detector-onnx": ("export.detector_onnx", "detector checkpoint to ONNX, with its card"),
    "landmarks-onnx": ("export.landmarks_onnx", "landmarks checkpoint to ONNX, with its card"),
    "heads": ("export.heads", "train MixMaxSim submodel heads on frozen embeddings"),
    "onnx": ("export.to_onnx", "checkpoint to ONNX, float32 and float16 weights, with its card"),
    "int8": ("export.quantize", "checkpoint to INT8 QDQ ONNX for both runtimes"),
    "openvino": ("export.to_openvino", "checkpoint to OpenVINO IR, float16 weights or INT8"),
    "ship": ("export.ship", "all of the below for an embedder, in order, into the weights"),
    "adopt": ("export.adopt", "make a model of edgeface of any ArcFace-like ONNX file"),
    "parity": ("export.parity", "compare exported files with their checkpoint, exit 1 past budget"),
    "card": ("export.card", "measure a shipped embedder and write its card"),
    "report": ("export.report", "measure all shipped embedders: cards, table, picture"),
    "compare": ("export.compare", "a table of any embedders, from what bench accuracy measured"),
    "cohort": ("export.cohort", "fit the impostor model that ships beside an embedder"),
    "recognisability": ("export.recognisability", "fit which faces an embedder can recognise"),
    "fusion": ("export.fusion", "train how the faces of a track become one template"),
    "similarity": ("export.similarity", "learn the edge similarity used by clustering"),
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        print(__doc__)
        for verb, (_, what) in VERBS.items():
            print(f"  {verb:<15}{what}")
        return 0
    if argv[0] not in VERBS:
        print(f"export: no verb {argv[0]!r}; one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        return int(importlib.import_module(VERBS[argv[0]][0]).main(argv[1:]) or 0)
    except EdgefaceError as error:
        print(f"{argv[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
