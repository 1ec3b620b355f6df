"""OpenCV's own face API: FaceDetectorYN with YuNet; embeddings by OpenCV's DNN module.

There is no SFace model here for FaceRecognizerSF, so the original project's MobileFaceNet takes its
place, run by the same module; the threshold is the one OpenCV documents for cosines.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import protocol

SCORE, OVERLAP = 0.9, 0.3  # the defaults of FaceDetectorYN.create
THRESHOLD = 0.363


class OpenCV:
    def __init__(self, options: argparse.Namespace) -> None:
        models = options.shared / "models"
        yunet = models / "teachers/yunet_n_640_640.onnx"
        self._detector = cv2.FaceDetectorYN.create(str(yunet), "", (640, 640), SCORE, OVERLAP)
        self._network = cv2.dnn.readNetFromONNX(
            str(models / "peers/original_mobilefacenet/optim.onnx")
        )
        self._people = protocol.Nearest(THRESHOLD)

    def _find(self, image: np.ndarray) -> np.ndarray:
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        _, rows = self._detector.detect(image)
        return np.empty((0, 15), np.float32) if rows is None else rows

    def _embed(self, image: np.ndarray, row: np.ndarray) -> np.ndarray:
        crop = protocol.align(image, row[4:14].reshape(5, 2))
        self._network.setInput(
            cv2.dnn.blobFromImage(crop, 1 / 127.5, (112, 112), (127.5,) * 3, swapRB=True)
        )
        return np.array(self._network.forward()[0])

    def enrol(self, name: str, image: np.ndarray) -> None:
        rows = self._find(image)
        largest = rows[(rows[:, 2] * rows[:, 3]).argmax()]
        self._people.add(name, self._embed(image, largest))

    def step(self, image: np.ndarray, index: int, seconds: float) -> list[protocol.Seen]:
        seen: list[protocol.Seen] = []
        for row in self._find(image):
            x, y, w, h = row[:4]
            seen.append(((x, y, x + w, y + h), self._people.name(self._embed(image, row))))
        return seen


if __name__ == "__main__":
    protocol.main(OpenCV)
