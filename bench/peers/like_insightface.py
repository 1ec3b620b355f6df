"""A pipeline as insightface builds one: SCRFD, five-point alignment, MobileFaceNet (y1), cosine.

Both networks run in ONNX Runtime as exported, with its default options but for the number of
threads; every face of every frame is embedded on its own, as `FaceAnalysis.get` does. Detection
takes 640x640 like `FaceAnalysis.prepare` unless `DETECT_SIZE=tight` asks for the frame's own shape.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import protocol

SIDE, SCORE, OVERLAP = 640, 0.5, 0.4  # det_size, det_thresh and nms_thresh of insightface
THRESHOLD = 0.4  # cosine, the default of insightface's server
ANCHORS = 2  # per cell


def session(file: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class Scrfd:
    """SCRFD (Guo et al. 2021): per stride a score, four distances and five points per anchor."""

    def __init__(self, file: Path, threads: int) -> None:
        self._session = session(file, threads)
        self._input = self._session.get_inputs()[0].name
        self._tight = os.environ.get("DETECT_SIZE") == "tight"

    def __call__(self, image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(box, landmarks) per face, best first."""
        scale = SIDE / max(image.shape[:2])
        small = cv2.resize(image, None, fx=scale, fy=scale)
        height = -(-small.shape[0] // 32) * 32 if self._tight else SIDE
        padded = np.zeros((height, SIDE, 3), np.uint8)
        padded[: small.shape[0], : small.shape[1]] = small
        blob = cv2.dnn.blobFromImage(padded, 1 / 128, (SIDE, height), (127.5,) * 3, swapRB=True)
        outputs = self._session.run(None, {self._input: blob})
        scores, boxes, points = [], [], []
        for level, stride in enumerate((8, 16, 32)):
            score, distance, offset = (
                np.reshape(outputs[level + 3 * part], (-1, width))
                for part, width in enumerate((1, 4, 10))
            )
            rows, columns = np.mgrid[: height // stride, : SIDE // stride]
            centres = np.stack([columns, rows], -1).reshape(-1, 2).repeat(ANCHORS, 0) * stride
            keep = np.flatnonzero(score[:, 0] >= SCORE)
            centre, reach = centres[keep].astype(np.float32), distance[keep] * stride
            scores.append(score[keep, 0])
            boxes.append(np.hstack([centre - reach[:, :2], centre + reach[:, 2:]]) / scale)
            points.append((centre[:, None] + offset[keep].reshape(-1, 5, 2) * stride) / scale)
        score, box, point = map(np.concatenate, (scores, boxes, points))
        corners = np.hstack([box[:, :2], box[:, 2:] - box[:, :2]])
        kept = cv2.dnn.NMSBoxes(corners.tolist(), score.tolist(), SCORE, OVERLAP)
        return [(box[i], point[i]) for i in np.reshape(kept, -1).astype(int)]


class Insightface:
    def __init__(self, options: argparse.Namespace) -> None:
        models = options.shared / "models"
        self._detect = Scrfd(models / "peers/scrfd/scrfd_2.5g_bnkps.onnx", options.threads)
        self._network = session(models / "teachers/mobilefacenet_y1.onnx", options.threads)
        self._input = self._network.get_inputs()[0].name
        self._people = protocol.Nearest(THRESHOLD)

    def _embed(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        crop = protocol.align(image, landmarks)
        blob = cv2.dnn.blobFromImage(crop, 1.0, (112, 112), swapRB=True)
        return np.asarray(self._network.run(None, {self._input: blob})[0][0])

    def enrol(self, name: str, image: np.ndarray) -> None:
        faces = self._detect(image)
        _, landmarks = max(faces, key=lambda f: np.prod(f[0][2:] - f[0][:2]))
        self._people.add(name, self._embed(image, landmarks))

    def step(self, image: np.ndarray, index: int, seconds: float) -> list[protocol.Seen]:
        return [
            (tuple(box), self._people.name(self._embed(image, landmarks)))
            for box, landmarks in self._detect(image)
        ]


if __name__ == "__main__":
    protocol.main(Insightface)
