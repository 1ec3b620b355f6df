"""Face detection: an image to boxes and five landmarks, best score first."""

from edgeface.detect.grid import (
    CHANNELS,
    MAX_SIDE,
    STRIDES,
    Detector,
    decode,
    overlaps,
    suppress,
)

__all__ = ["CHANNELS", "MAX_SIDE", "STRIDES", "Detector", "decode", "overlaps", "suppress"]
