"""What each cell of the detector should say of a labelled picture, and the loss against it.

A face belongs to the strides of its size, and there to the cells around its middle. The cells next
to those may say what they like, as may those in boxes about which the labels are undecided.

Losses: quality focal loss on the score (Li et al., "Generalized Focal Loss", 2020, eq. 4), IoU plus
relative edge distance on boxes, relative L1 on landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.networks.detector import CHANNELS, STRIDES
from export.scenes import Picture

# Box sides (square root of the area, px) per stride; one stride goes on where the next begins, so
# that two answer for a size between. A cell of stride 8 sees 63 px, one of stride 16 159 px.
SIZES = ((0.0, 44.0), (28.0, 130.0), (90.0, float("inf")))
NEAR = 1.35  # a size beyond a stride's range by up to this factor is neither asked for nor denied
REACH = (1.0, 2.0)  # cells from the middle of a face that answer for it, of small to large faces
GREW = 0.18  # share of the side that REACH follows between its ends
IGNORED = -1.0  # score of a cell that may say what it likes
FOCUS = 1.5  # exponent of the quality focal loss
BOX_WEIGHT, EDGE_WEIGHT, LANDMARK_WEIGHT = 2.0, 4.0, 8.0


def wanted(picture: Picture) -> list[NDArray[np.float32]]:
    """Per stride an array (15, H/s, W/s): score in [0, 1] or `IGNORED`; where it is positive box
    and landmarks in the network's code, NaN where the points are not known."""
    height, width = picture.image.shape[:2]
    maps = []
    for stride, sizes in zip(STRIDES, SIZES, strict=True):
        grid = np.zeros((CHANNELS, height // stride, width // stride), np.float32)
        row, column = np.indices(grid.shape[1:], np.float32)
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        for x1, y1, x2, y2 in picture.ignore:
            grid[0, (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)] = IGNORED
        side = np.sqrt(np.prod(picture.boxes[:, 2:] - picture.boxes[:, :2], axis=1))
        for i in np.argsort(-side):  # small faces last: they are before the large ones
            x1, y1, x2, y2 = picture.boxes[i]
            middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
            distance = np.hypot(x - middle[0], y - middle[1]) / stride
            reach = float(np.clip(GREW * side[i] / stride, *REACH))
            if not sizes[0] / NEAR <= side[i] <= sizes[1] * NEAR:
                continue
            free = (distance < 1.6 * reach + 0.5) & (grid[0] <= 0)
            grid[0, free] = IGNORED
            if not sizes[0] <= side[i] <= sizes[1]:
                continue
            mine = distance < reach
            grid[0, mine] = 1.0
            corner = np.stack([column[mine], row[mine]])
            grid[1:3, mine] = middle[:, None] / stride - corner
            grid[3:5, mine] = np.log(np.maximum([[x2 - x1], [y2 - y1]], 1.0) / stride)
            points = picture.points[i][:, :, None] / stride - corner[None]
            grid[5:, mine] = points.reshape(10, -1)
        maps.append(grid)
    return maps


def edges(box: Tensor) -> Tensor:
    """(m, 4) dx, dy, log w, log h to x1, y1, x2, y2 in strides from the cell's corner."""
    half = box[:, 2:].clamp(-4, 5).exp() / 2
    return torch.cat([box[:, :2] - half, box[:, :2] + half], dim=1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of matching rows of two (m, 4) xyxy sets."""
    wh = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    overlap = wh.prod(1)
    areas = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return overlap / (areas - overlap).clamp(min=1e-6)


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of the loss, each a scalar tensor."""

    score: Tensor
    box: Tensor
    landmark: Tensor

    @property
    def total(self) -> Tensor:
        return self.score + self.box + self.landmark


def _rows(maps: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([m.flatten(2).transpose(1, 2).reshape(-1, m.shape[1]) for m in maps])


def detection_loss(student: tuple[Tensor, ...], labels: list[Tensor]) -> Losses:
    """Loss of student maps (score logits) against maps of `wanted`, (n, 15, H/s, W/s) each."""
    ours, theirs = _rows(student), _rows(labels)
    counts = theirs[:, 0] >= 0
    target, logit = theirs[counts, 0], ours[counts, 0]
    focus = (target - logit.detach().sigmoid()).abs() ** FOCUS
    entropy = nn.functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
    mass = target.sum().clamp(min=1.0)
    score = (focus * entropy).sum() / mass

    keep = theirs[:, 0] > 0
    mine, aim = edges(ours[keep, 1:5]), edges(theirs[keep, 1:5])
    size = (aim[:, 2:] - aim[:, :2]).prod(1).sqrt().clamp(min=1e-3)
    edge = (mine - aim).abs().mean(1) / size
    box = (BOX_WEIGHT * (1 - iou(mine, aim)) + EDGE_WEIGHT * edge).sum() / mass
    known = theirs[keep, 5:].isfinite().all(1)
    miss = (ours[keep, 5:] - theirs[keep, 5:])[known].abs().mean(1) / size[known]
    return Losses(score, box, LANDMARK_WEIGHT * miss.sum() / mass)
