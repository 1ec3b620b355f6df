"""Networks of the shipped family, small enough to train in a test."""

from __future__ import annotations

from dataclasses import replace

from export.networks import mobilefacenet

TINY = mobilefacenet.Spec(
    4,
    (
        mobilefacenet.Stage(4, 2, 8, 8, 1),
        mobilefacenet.Stage(8, 2, 16, 16, 1),
        mobilefacenet.Stage(8, 2, 16, 16, 1),
    ),
    head=16,
    embedding=8,
)

DEEPER = replace(TINY, mesh=1)  # what mobilefacenetv2 is to mobilefacenet
