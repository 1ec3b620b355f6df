"""UniFace's detector and recogniser, with SCRFD 2.5g and MobileFaceNet (y1).

The models it would fetch are not in the shared folder: those that are there are registered under
the names of two that it has, a detector of .5 and a recogniser of a fifth of the operations.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import protocol
from uniface import constants
from uniface.detection import SCRFD
from uniface.recognition import MobileFace
from uniface.recognition.base import PreprocessConfig

THRESHOLD = 0.4  # cosine, as of its kind
DETECTOR, RECOGNISER = constants.SCRFDWeights.SCRFD_500M_KPS, constants.MobileFaceWeights.MNET_025
MODELS = {
    DETECTOR: "peers/scrfd/scrfd_2.5g_bnkps.onnx",
    RECOGNISER: "teachers/mobilefacenet_y1.onnx",
}
PROVIDERS = ["CPUExecutionProvider"]


class Uniface:
    def __init__(self, options: argparse.Namespace) -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["UNIFACE_CACHE_DIR"] = folder
            for name, model in MODELS.items():
                file = options.shared / "models" / model
                (Path(folder) / f"{name.value}.onnx").symlink_to(file.resolve())
                constants.MODEL_REGISTRY[name] = constants.ModelInfo(
                    url=file.as_uri(), sha256=hashlib.sha256(file.read_bytes()).hexdigest()
                )
            self._detect = SCRFD(model_name=DETECTOR, providers=PROVIDERS)
            # This network takes pixels as they are.
            pixels = PreprocessConfig(input_mean=0.0, input_std=1.0)
            self._recognise = MobileFace(
                model_name=RECOGNISER, preprocessing=pixels, providers=PROVIDERS
            )
        self._people = protocol.Nearest(THRESHOLD)

    def _embed(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return np.ravel(self._recognise.get_normalized_embedding(image, landmarks))

    def enrol(self, name: str, image: np.ndarray) -> None:
        faces = self._detect.detect(image)
        best = max(faces, key=lambda f: np.prod(f.bbox[2:] - f.bbox[:2]))
        self._people.add(name, self._embed(image, best.landmarks))

    def step(self, image: np.ndarray, index: int, seconds: float) -> list[protocol.Seen]:
        return [
            (tuple(face.bbox), self._people.name(self._embed(image, face.landmarks)))
            for face in self._detect.detect(image)
        ]


if __name__ == "__main__":
    protocol.main(Uniface)
