"""All options of following and naming people, gathered. Each is described where it is used."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeface.aggregate import Policy
from edgeface.decide import Rules
from edgeface.gallery import GrowthRules
from edgeface.gate import MotionOptions
from edgeface.track import TrackerOptions
from edgeface.video import LiveOptions


@dataclass(frozen=True, slots=True)
class Settings:
    """How people are followed and named. `Settings()` is what is shipped."""

    tracking: TrackerOptions | None = None  # faces into tracks; None: what the networks ask for
    policy: Policy = field(default_factory=Policy)  # which faces of a track are worth an embedding
    rules: Rules = field(default_factory=Rules)  # what it takes to get a name and to lose it
    # Where frames are looked at; None: every frame as a whole, at ten times the work of a fixed
    # camera before which nothing moves.
    motion: MotionOptions | None = field(default_factory=MotionOptions)
    growth: GrowthRules | None = None  # what the gallery learns by itself; None: nothing
    live: LiveOptions = field(default_factory=LiveOptions)  # how cameras and streams are watched
