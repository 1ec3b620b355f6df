"""`edgeface cluster` as it is typed."""

from __future__ import annotations

import json
import shutil
import sys

import pytest


@pytest.fixture
def run(capsys, monkeypatch):
    from edgeface.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["edgeface", "cluster", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return stopped.value.code, shown.out, shown.err

    return run


def test_people_go_from_a_folder_into_a_gallery_once(tmp_path, sample, run) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = next(p for p in sorted(sample.rglob("*")) if p.suffix in {".jpg", ".webp", ".png"})
    shutil.copy(picture, photos / picture.name)
    shutil.copy(picture, photos / f"copy-{picture.name}")
    (photos / "raw.dng").write_bytes(b"x")
    words = [photos, "--out", tmp_path / "out", "--into", tmp_path / "g", "--json"]
    code, out, err = run(*words)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert sum(row["faces"] for row in rows) % 2 == 0
    assert "passed over 1 file *.dng" in err
    code, _, err = run(*words, "--update")
    assert code == 0
    assert "0 people are new" in err and "0 faces added" in err


@pytest.mark.parametrize(
    "words",
    [
        ["photos", "--labels", "nowhere"],
        ["--update"],
        [],
        ["--open", "--into", "g"],
        ["photos", "--folders", "move"],
    ],
)
def test_options_that_do_nothing_are_refused(words, run) -> None:
    assert run(*words)[0] == 2


def test_a_folder_that_is_missing_is_bad_data(tmp_path, run) -> None:
    code, _, err = run(tmp_path / "none", "--out", tmp_path / "out")
    assert code == 1
    assert "not a folder of pictures" in err


def test_open_needs_a_result(tmp_path, run) -> None:
    code, _, err = run("--open", "--out", tmp_path / "out")
    assert code == 1
    assert "cluster a folder first" in err
