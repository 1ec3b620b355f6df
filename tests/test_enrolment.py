"""Many people enrolled with few commits, and none of them at the cost of another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeface import enrolment
from edgeface.enrolment import Enrolling
from edgeface.errors import GalleryError, ImageError
from edgeface.gallery import Gallery
from edgeface.types import Face


class Looked:
    """Stands in for a describer: a picture is an array whose mean grey says whose face it shows."""

    def __call__(self, image: np.ndarray) -> list[Face]:
        shade = int(image.mean())
        if not shade:
            return []
        row = np.zeros(8, np.float32)
        row[shade % 8] = 1.0
        return [Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 0.9, 0.9, row)]


def picture(shade: int) -> np.ndarray:
    return np.full((40, 40, 3), shade, np.uint8)


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "people.gallery", model="m", size=8) as it:
        yield it


@pytest.fixture
def commits(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    begun = gallery._begun

    def counted():
        made.append(1)
        return begun()

    monkeypatch.setattr(gallery, "_begun", counted)
    return made


def enrolling(gallery: Gallery) -> Enrolling:
    return Enrolling(Looked(), gallery)  # type: ignore[arg-type]


def names(gallery: Gallery) -> list[str]:
    return [p.name for p in gallery.people()]


def test_people_given_together_are_committed_together(gallery: Gallery, commits) -> None:
    with enrolling(gallery) as group:
        for i in range(1, 6):
            group.add(f"person {i}", [picture(i)])
        assert names(gallery) == []
    assert names(gallery) == [f"person {i}" for i in range(1, 6)]
    assert [d.person.name for d in group.done] == names(gallery)
    assert len(commits) == 1
    assert [e.action for e in gallery.history()] == ["enroll"] * 5  # each can be undone
    gallery.undo()
    assert names(gallery) == [f"person {i}" for i in range(1, 5)]


def test_nobody_waits_longer_than_a_group_takes(gallery: Gallery, commits, monkeypatch) -> None:
    monkeypatch.setattr(enrolment, "GROUP_SECONDS", 0.0)
    with enrolling(gallery) as group:
        for i in range(1, 4):
            group.add(f"person {i}", [picture(i)])
            assert len(names(gallery)) == i
    assert len(commits) == 3


def test_a_bad_picture_or_name_concerns_nobody_else(gallery: Gallery) -> None:
    with enrolling(gallery) as group:
        group.add("Alice", [picture(1)])
        with pytest.raises(ImageError, match="no face"):
            group.add("Bob", [picture(0)])
        with pytest.raises(GalleryError, match="kept for people the gallery finds"):
            group.add("stranger-7", [picture(2)])
        group.add("Carol", [picture(3)])
    assert names(gallery) == ["Alice", "Carol"]


def test_whoever_was_looked_at_is_enrolled_when_the_block_raises(gallery: Gallery) -> None:
    with pytest.raises(KeyboardInterrupt), enrolling(gallery) as group:
        group.add("Alice", [picture(1)])
        raise KeyboardInterrupt
    assert names(gallery) == ["Alice"]


def test_a_person_whose_row_is_damaged_does_not_take_the_group_along(gallery: Gallery) -> None:
    gallery.enroll("Bob", np.eye(8, dtype=np.float32)[:1])
    with gallery.database.transaction() as execute:
        execute("UPDATE person SET metadata = 'torn' WHERE name = 'Bob'")
    with pytest.raises(GalleryError, match="damaged"), enrolling(gallery) as group:
        for i, name in enumerate(("Alice", "Bob", "Carol"), 1):
            group.add(name, [picture(i)])
    assert [d.person.name for d in group.done] == ["Alice", "Carol"]
    assert {"Alice", "Carol"} <= set(names(gallery))


def test_a_group_that_cannot_be_committed_is_not_tried_again(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was made may be unknown, as when a server falls silent: twice would be wrong."""
    begun, calls = gallery._begun, []

    class Broken:
        def __enter__(self):
            calls.append(1)
            self.inner = begun()
            return self.inner.__enter__()

        def __exit__(self, *error: object) -> None:
            self.inner.__exit__(*error)
            raise GalleryError("no answer")

    monkeypatch.setattr(gallery, "_begun", Broken)
    with pytest.raises(GalleryError, match="no answer"), enrolling(gallery) as group:
        group.add("Alice", [picture(1)])
    assert (len(calls), group.done) == (1, [])
