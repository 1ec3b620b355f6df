"""What was found in another program: people, and the pictures of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from edgeface import images


class Layout(StrEnum):
    """How pictures are laid out."""

    FOLDERS = "folders"  # NAME/picture
    FRIGATE = "frigate"
    DOUBLE_TAKE = "double-take"
    COMPREFACE = "compreface"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of somebody: what it is called, and `get`, which gives a path or its bytes and may
    raise an ImageError."""

    label: str
    get: Callable[[], images.Source]


@dataclass(frozen=True, slots=True)
class Found:
    """The people of another program by name, each with pictures, and what was left out and why."""

    layout: Layout
    people: dict[str, tuple[Picture, ...]]
    left_out: tuple[str, ...] = ()
