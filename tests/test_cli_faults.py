"""What goes wrong on a command line: one bad file never takes the others with it, and whatever the
terminal, the locale or the names of files are, there is one clear line and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import Run

from edgeface import draw
from edgeface.errors import OutputError
from edgeface.identify import Identifier


@pytest.fixture
def pile(tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made the current one: good pictures among bad ones of several kinds."""
    eileen = (sample / "eileen.jpg").read_bytes()
    for name in (b"eileen.jpg", b"caf\xe9.jpg", b"esc\x1b[31m.jpg"):
        (tmp_path / os.fsdecode(name)).write_bytes(eileen)
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "bad.jpg").write_bytes(eileen[:1000])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    """The names in a folder, in order."""
    return sorted(p.name for p in folder.iterdir())


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edgeface.cli", *map(str, arguments)],
        capture_output=True,
        check=False,
        env=os.environ | environment,
    )


def test_every_good_picture_has_a_line_beside_bad_ones(run: Run, pile: Path) -> None:
    pictures = names(pile)
    done = run("identify", *pictures, "no-such.jpg", "x" * 300 + ".jpg")
    assert done.code == 1
    assert [row["picture"] for row in done.rows] == [p for p in pictures if p != "bad.jpg"]
    (empty,) = (row for row in done.rows if row["status"] == "no_face")
    assert empty["picture"] == "wall.png"
    assert empty["box"] is None and empty["name"] is None and empty["similarity"] is None
    assert all(list(row) == list(empty) for row in done.rows)
    lines = done.err.splitlines()
    assert len(lines) == 3 and all(line.startswith("edgeface: ") for line in lines)
    assert "bad.jpg" in done.err and "no-such.jpg" in done.err and "\x1b" not in done.err


def test_a_picture_that_is_too_much_for_memory_is_one_bad_picture(
    run: Run, pile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identify = Identifier.identify

    def greedy(self: Identifier, picture: str) -> object:
        if picture == "wall.png":
            raise MemoryError
        return identify(self, picture)

    monkeypatch.setattr(Identifier, "identify", greedy)
    done = run("identify", "wall.png", "eileen.jpg")
    assert (done.code, len(done.rows)) == (1, 1)
    assert "wall.png: out of memory" in done.err


def test_an_unforeseen_error_is_one_line_without_values(
    run: Run, pile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Identifier, picture: str) -> object:
        raise KeyError("password")

    monkeypatch.setattr(Identifier, "identify", broken)
    done = run("identify", "eileen.jpg")
    assert done.code == 2
    assert done.err.count("\n") == 1 and "KeyError" in done.err and "password" not in done.err


def test_a_misspelt_gallery_is_never_made(run: Run, pile: Path) -> None:
    before = names(pile)
    for words in (
        ["identify", "eileen.jpg", "-g", "ofice.gallery"],
        ["calibrate", "ofice.gallery"],
        *(["gallery", verb, "ofice.gallery"] for verb in ("list", "history", "undo", "audit")),
    ):
        done = run(*words)
        assert done.code == 2, words
        assert "ofice.gallery" in done.err and "edgeface enroll" in done.err
    assert names(pile) == before


def test_history_tells_the_time_as_a_clock_does(run: Run, pile: Path) -> None:
    run("enroll", "g.gallery", "Zoë", "eileen.jpg")
    (entry,) = run("gallery", "history", "g.gallery").rows
    assert entry["created"][:2] == "20" and entry["created"][10] == "T"
    assert entry["created"][-6] in "+-"


def test_a_forced_c_locale_takes_names_of_any_script(pile: Path) -> None:
    forced = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command("enroll", "g.gallery", "Zoë", "eileen.jpg", **forced)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["name"] == "Zoë"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_output_of_another_encoding_is_json_all_the_same(pile: Path, encoding: str) -> None:
    done = command("identify", *names(pile), PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.decode(encoding).splitlines()]
    assert os.fsdecode(b"caf\xe9.jpg") in [row["picture"] for row in rows]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_and_a_closed_stdout(pile: Path) -> None:
    words = f"{sys.executable} -m edgeface.cli models list"
    for redirected, code in ((">/dev/full", 2), (">&-", 0), ("2>&- >&- <&-", 0)):
        done = subprocess.run(
            ["bash", "-c", f"{words} {redirected}"], check=False, capture_output=True
        )
        assert done.returncode == code, redirected
        assert done.stderr.count(b"\n") == (code != 0)


def test_without_opencv_there_is_one_line_and_code_two(pile: Path) -> None:
    code = (
        "import sys; sys.modules['cv2'] = None; sys.argv[1:] = ['identify', 'eileen.jpg']\n"
        "from edgeface.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "edgeface[headless]" in done.stderr


def test_no_window_is_tried_where_none_can_be(run: Run, sample: Path) -> None:
    try:
        draw.check_display()
    except OutputError:
        done = run("identify", "--video", sample / "clip.mp4", "--display")
        assert (done.code, done.out) == (2, "")
        assert "display" in done.err and done.err.count("\n") == 1
    else:
        pytest.skip("there is a display here")
