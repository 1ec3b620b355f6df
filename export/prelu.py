"""PReLU as ONNX Runtime is fast with it: it has none in its blocked layout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Slopes closer to 1 than this are moved that far away: `split` divides by the distance.
NEAREST = 2.0**-10


def split(slope: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`factor` and `linear` (o,) of slopes a (o,), so that with y' = factor·y

    prelu(y) = relu(y') + linear·y' where factor > 0, and the negative of that where factor < 0.

    factor = 1 - a; linear = a/(1 - a) where a < 1, and 1/(a - 1) where a > 1.
    """
    factor = 1.0 - slope.astype(np.float64)
    near = np.abs(factor) < NEAREST
    factor = np.where(near, np.where(factor < 0, -NEAREST, NEAREST), factor)
    return factor, np.where(factor > 0, (1.0 - factor) / factor, -1.0 / factor)
