"""Tracks of one visit that no camera can name alone get a name together, and the same one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from test_sightings import NOW, D

from edgeface.gallery import Gallery, Kind
from edgeface.sightings.company import Company, Stay
from edgeface.thresholds import Thresholds
from edgeface.types import Array, Match, Threshold

LIMITS = Thresholds(Threshold(0.4, "card"), Threshold(0.3, "card"))
AXES = np.linalg.qr(np.random.default_rng(0).standard_normal((D, 8)))[0].T.astype(np.float32)


def view(number: int, like: float = 0.37) -> Array:
    """Like Ann (axis 0) by a cosine of `like`, like other views by .45, else by itself."""
    rest = np.sqrt(0.45 - like**2)
    return (like * AXES[0] + rest * AXES[1] + np.sqrt(0.55) * AXES[2 + number]).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "g.gallery", model="m", size=D) as made:
        made.enroll("Ann", AXES[:1])
        made.enroll("Ben", AXES[7:8])
        yield made


def heard(
    company: Company, gallery: Gallery, number: int, row: Array, camera: str, seconds: float = 0.0
) -> list[Match] | None:
    at = NOW + timedelta(seconds=seconds)
    stay = Stay(("r", number), camera, at, at + timedelta(seconds=5), row, 1.0)
    return company.hear(stay, gallery.search(row), LIMITS)


def test_tracks_without_a_name_get_the_same_one_in_any_order(gallery: Gallery) -> None:
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        company = Company(gallery)
        first = order[0]
        assert heard(company, gallery, first, view(first), f"c{first}") is None  # not enough
        for n in order[1:]:
            heard(company, gallery, n, view(n), f"c{n}")
        said = [heard(company, gallery, n, view(n), f"c{n}") for n in (*order[1:], order[0])]
        assert all(m is not None and m[0].name == "Ann" for m in said)
        numbers = [m[0].similarity for m in said if m is not None]
        assert max(numbers) - min(numbers) <= 1e-6 and numbers[0] >= LIMITS.known.value


def test_who_is_named_alone_names_nobody_else(gallery: Gallery) -> None:
    company = Company(gallery)
    assert heard(company, gallery, 0, view(0, 0.66), "c0") is None  # a match by itself
    # Resembles that track as strangers must, and Ann too little: not named by the resemblance.
    assert heard(company, gallery, 1, view(1, 0.2), "c1") is None
    assert heard(company, gallery, 2, view(2, 0.2), "c2") is None


def test_strangers_and_others_at_one_camera_are_not_joined(gallery: Gallery) -> None:
    company = Company(gallery)
    assert heard(company, gallery, 0, view(0), "c0") is None
    assert heard(company, gallery, 1, view(1), "c0") is None  # at the same time, so another
    late = 3600.0
    assert heard(company, gallery, 2, view(2), "c1", late) is None  # a long time afterwards


def test_a_numbered_stranger_is_named_unless_somebody_said_no(gallery: Gallery) -> None:
    company = Company(gallery)
    stranger = gallery.add_stranger(view(0))
    assert gallery.search(view(0))[0].kind is Kind.STRANGER
    heard(company, gallery, 0, view(0), "c0")
    found = heard(company, gallery, 1, view(1), "c1")
    assert found is not None and found[0].name == "Ann"
    gallery.set_different(stranger.id, gallery.person("Ann").id)
    assert heard(company, gallery, 1, view(1), "c1") is None
