"""Face detection: an image to boxes and five landmarks, best score first."""

from edgeface.detect.boxes import Candidates, overlaps, suppress
from edgeface.detect.detector import DEFAULT, FAMILIES, MAX_SIDE, Detector, Family
from edgeface.detect.landmarks import Landmarks
from edgeface.detect.looks import SURE

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "MAX_SIDE",
    "SURE",
    "Candidates",
    "Detector",
    "Family",
    "Landmarks",
    "overlaps",
    "suppress",
]
