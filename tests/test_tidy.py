"""Strangers merged in hindsight."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gallery_faces import MODEL, SIZE
from typer.testing import CliRunner

from edgeface.cli import app
from edgeface.gallery import Gallery, Kind
from edgeface.tidy import Merged, tidy

pytest_plugins = ("gallery_places",)
PEOPLE, VISITS = 30, 4


def visits(seed: int = 0) -> np.ndarray:
    """(people, visits, d) unit rows: the people are orthogonal, the visits of one have a cosine of
    about 0.8."""
    rng = np.random.default_rng(seed)
    people = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0][:PEOPLE, None]
    rows = people + 0.5 / np.sqrt(SIZE) * rng.standard_normal((PEOPLE, VISITS, SIZE))
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float32)


def fragmented(gallery: Gallery) -> None:
    """Visit v of person p opens stranger-(v * PEOPLE + p + 1)."""
    for visit in visits().transpose(1, 0, 2):
        for row in visit:
            gallery.add_stranger(row)


def test_fragments_of_a_stranger_become_the_earliest_of_them(gallery: Gallery) -> None:
    fragmented(gallery)
    merged = tidy(gallery)
    assert {(m.kept, m.gone) for m in merged} == {
        (f"stranger-{p + 1}", f"stranger-{v * PEOPLE + p + 1}")
        for p in range(PEOPLE)
        for v in range(1, VISITS)
    }
    assert [p.name for p in gallery.people()] == [f"stranger-{p + 1}" for p in range(PEOPLE)]
    assert {p.n_samples for p in gallery.people()} == {VISITS}
    assert tidy(gallery) == [], "there is nothing left to merge"


def test_a_merge_can_be_undone(gallery: Gallery) -> None:
    fragmented(gallery)
    last = tidy(gallery)[-1]
    gallery.undo()
    assert gallery.person(last.gone).n_samples == 1
    assert gallery.person(last.kept).n_samples == VISITS - 1


def test_the_known_and_those_seen_together_are_left_alone(gallery: Gallery) -> None:
    fragmented(gallery)
    gallery.rename("stranger-1", "Ann")
    second, twin = gallery.person("stranger-2"), gallery.person(f"stranger-{PEOPLE + 2}")
    gallery.never_same(second.id, twin.id)
    merged = tidy(gallery)
    assert gallery.person("Ann").n_samples == 1
    # The first of hers that is left takes the others in.
    assert Merged(f"stranger-{PEOPLE + 1}", f"stranger-{2 * PEOPLE + 1}") in merged
    assert gallery.person("Ann").kind is Kind.KNOWN
    assert gallery.person(twin.name).n_samples == 1
    assert gallery.person(second.name).n_samples == VISITS - 1


@pytest.mark.parametrize("strangers", [0, 1])
def test_a_gallery_without_strangers_to_merge_stays_as_it_is(
    gallery: Gallery, strangers: int
) -> None:
    rows = visits()
    gallery.enroll("Ann", rows[0])
    for person in range(strangers):
        gallery.add_stranger(rows[1 + person, 0])
    assert tidy(gallery) == []
    assert len(gallery.people()) == 1 + strangers


def test_the_command_prints_who_went_where(tmp_path: Path) -> None:
    path = tmp_path / "g.gallery"
    with Gallery.open(path, model=MODEL, size=SIZE) as gallery:
        fragmented(gallery)
    found = CliRunner().invoke(app, ["gallery", "tidy", str(path), "--json"])
    assert found.exit_code == 0
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert {"kept": "stranger-1", "gone": f"stranger-{PEOPLE + 1}"} in rows
    with Gallery.open(path, create=False) as gallery:
        assert len(gallery.people()) == PEOPLE
