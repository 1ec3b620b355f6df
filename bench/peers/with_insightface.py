"""InsightFace's own package, as its README uses it, with SCRFD and MobileFaceNet (y1).

The models it would fetch are not in the shared folder; those that are go the way of any folder of
models. Which sizes detection looks at is the package's default.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import protocol
from insightface.app import FaceAnalysis

THRESHOLD = 0.4  # cosine, the default of insightface's server
MODELS = ("peers/scrfd/scrfd_2.5g_bnkps.onnx", "teachers/mobilefacenet_y1.onnx")


class Insightface:
    def __init__(self, options: argparse.Namespace) -> None:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        self._folder = tempfile.TemporaryDirectory()  # read again for each size of detection
        for model in MODELS:
            file = options.shared / "models" / model
            (Path(self._folder.name) / file.name).symlink_to(file.resolve())
        self._analysis = FaceAnalysis(
            self._folder.name, providers=["CPUExecutionProvider"], sess_options=settings
        )
        # This network takes pixels as they are, which its file does not say as the package expects.
        recognition = self._analysis.models["recognition"]
        recognition.input_mean, recognition.input_std = 0.0, 1.0
        self._analysis.prepare(ctx_id=-1)
        self._people = protocol.Nearest(THRESHOLD)

    def enrol(self, name: str, image: np.ndarray) -> None:
        faces = self._analysis.get(image)
        best = max(faces, key=lambda f: np.prod(f.bbox[2:] - f.bbox[:2]))
        self._people.add(name, best.embedding)

    def step(self, image: np.ndarray, index: int, seconds: float) -> list[protocol.Seen]:
        return [
            (tuple(face.bbox), self._people.name(face.embedding))
            for face in self._analysis.get(image)
        ]


if __name__ == "__main__":
    protocol.main(Insightface)
