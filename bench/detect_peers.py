"""YuNet as a `Detector` beside ours."""

from __future__ import annotations

from pathlib import Path

from edgeface.models import InputSpec, ModelCard
from edgeface.types import Threshold

TEACHER_SCORE = 0.6


def teacher_card(path: Path) -> ModelCard:
    """A card for the teacher file, enough for `Detector`."""
    limit, spec = Threshold(TEACHER_SCORE, "card"), InputSpec("input", color="BGR")
    return ModelCard("teacher", "detection", path, "", 0, limit, spec, family="yunet")
