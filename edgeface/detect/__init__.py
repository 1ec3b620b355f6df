"""Face detection: an image to boxes and five landmarks, best score first."""

from edgeface.detect.boxes import overlaps, suppress
from edgeface.detect.grid import CHANNELS, MAX_SIDE, STRIDES, Detector, decode
from edgeface.detect.looks import SURE

__all__ = ["CHANNELS", "MAX_SIDE", "STRIDES", "SURE", "Detector", "decode", "overlaps", "suppress"]
