"""`face_recognition` (dlib) as its README uses it: HOG detector, one upsampling, tolerance 0.6."""

from __future__ import annotations

import argparse

import cv2
import face_recognition
import numpy as np
import protocol


class FaceRecognition:
    def __init__(self, options: argparse.Namespace) -> None:
        self._names: list[str] = []
        self._rows: list[np.ndarray] = []

    def enrol(self, name: str, image: np.ndarray) -> None:
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        places = face_recognition.face_locations(rgb)
        largest = max(places, key=lambda p: (p[2] - p[0]) * (p[1] - p[3]))
        self._names.append(name)
        self._rows += face_recognition.face_encodings(rgb, [largest])

    def step(self, image: np.ndarray, index: int, seconds: float) -> list[protocol.Seen]:
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        places = face_recognition.face_locations(rgb)
        seen: list[protocol.Seen] = []
        for place, row in zip(places, face_recognition.face_encodings(rgb, places), strict=True):
            top, right, bottom, left = place
            alike = face_recognition.compare_faces(self._rows, row)
            nearest = int(np.argmin(face_recognition.face_distance(self._rows, row)))
            name = self._names[nearest] if alike[nearest] else None
            seen.append(((left, top, right, bottom), name))
        return seen


if __name__ == "__main__":
    protocol.main(FaceRecognition)
