"""Face detection: an image to boxes and five landmarks, best score first."""

from edgeface.detect.boxes import overlaps, suppress
from edgeface.detect.grid import CHANNELS, MAX_SIDE, STRIDES, Detector, decode

__all__ = ["CHANNELS", "MAX_SIDE", "STRIDES", "Detector", "decode", "overlaps", "suppress"]
