"""One rule says which files of a folder are pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from conftest import picture

from edgeface import video
from edgeface.errors import DataError, SourceError
from edgeface.listing import people_in, pictures_in


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return root


def test_what_other_programs_leave_in_folders_does_not_count(tmp_path: Path) -> None:
    kept = ("a.jpg", "b.HEIC", "sub/c.gif", "sub/d.avif", "e.jp2")
    left = (
        *("._a.jpg", ".hidden.png", ".DS_Store", "Thumbs.db", "notes.txt", "film.mp4"),
        *("@eaDir/a.jpg", ".thumbnails/a.png", "$RECYCLE.BIN/b.jpg", "Trash/c.jpg"),
        *("__MACOSX/a.jpg", ".Trash-1000/files/a.jpg", "earlier/pile.sqlite", "earlier/f.jpg"),
        *("raw.CR2", "new.jxl"),
    )
    listing = pictures_in(folder_of(tmp_path, *kept, *left), marker="pile.sqlite")
    assert [str(f.relative_to(tmp_path)) for f in listing.pictures] == sorted(kept)
    assert listing.passed == {".cr2": 1, ".jxl": 1}
    flat = pictures_in(tmp_path, below=False)
    assert [f.name for f in flat.pictures] == ["a.jpg", "b.HEIC", "e.jp2"]


def test_people_are_folders_with_pictures(tmp_path: Path) -> None:
    folder_of(tmp_path, "Alice/1.jpg", "Alice/._1.jpg", "Bob/x.txt", "@eaDir/2.jpg", "loose.jpg")
    assert {n: [f.name for f in x.pictures] for n, x in people_in(tmp_path).items()} == {
        "Alice": ["1.jpg"]
    }
    for wrong in (tmp_path / "loose.jpg", tmp_path / "nothing"):
        for listed in (pictures_in, people_in):
            with pytest.raises(DataError, match="not a folder"):
                listed(wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes")
def test_names_that_are_no_utf8_are_listed(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(name, "wb"):  # noqa: PTH123
        pass
    (found,) = pictures_in(tmp_path).pictures
    assert os.fsencode(found) == name


def test_a_folder_as_video_goes_on_after_a_bad_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "c.png"):
        picture(tmp_path / name)
    folder_of(tmp_path, "._a.png", "b.png")
    found = []
    with pytest.raises(SourceError, match="1 of 3 pictures"):  # at the end, so that scripts notice
        for frame in video.frames(tmp_path, folder_fps=10):
            found.append(frame)
    assert [(f.index, f.time) for f in found] == [(0, 0.0), (2, 0.2)]
    assert "b.png is empty" in caplog.text and "._a" not in caplog.text
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(SourceError, match="3 of 3 pictures"):
        list(video.frames(tmp_path))
