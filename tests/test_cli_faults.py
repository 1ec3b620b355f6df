"""What goes wrong on a command line: one bad file never takes the others with it, and whatever the
terminal, the locale or the names of files are, there is one clear line and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import Run

from edgeface import draw
from edgeface.errors import OutputError
from edgeface.gallery import Gallery
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


def test_one_bad_picture_or_folder_does_not_stop_an_enrolment(run: Run, pile: Path) -> None:
    done = run("enroll", "g.gallery", "Zoë", *sorted(p for p in names(pile) if p != "wall.png"))
    assert done.code == 1
    assert done.rows[0]["added"] == 3
    assert done.err.count("\n") == 1 and "bad.jpg" in done.err
    sources = [row["source"] for row in run("gallery", "samples", "g.gallery", "Zoë").rows]
    assert r"caf\xe9.jpg" in sources
    for folder in ("Ann", "Bea", "stranger-7", "Cem"):
        (pile / "people" / folder).mkdir(parents=True)
        (pile / "people" / folder / "1.jpg").write_bytes((pile / "eileen.jpg").read_bytes())
    (pile / "people" / "Bea" / "1.jpg").write_bytes(b"")
    (pile / "people" / "Cem" / "2.png").write_bytes((pile / "wall.png").read_bytes())
    done = run("enroll", "folder.gallery", "people")
    assert done.code == 1
    assert [(row["name"], row["added"]) for row in done.rows] == [("Ann", 1), ("Cem", 1)]
    assert done.err.count("\n") == 3
    done = run("enroll", "folder.gallery", "Cem", "eileen.jpg", "wall.png", "--faces", "skip")
    assert (done.code, done.rows[0]["added"]) == (0, 1)
    assert "wall.png" in done.err


def test_notes_of_other_systems_are_not_pictures(run: Run, pile: Path) -> None:
    """macOS puts `._x.jpg` beside every picture on a foreign disk, NAS boxes make @eaDir."""
    eileen = (pile / "eileen.jpg").read_bytes()
    for file in ("people/Ann/1.jpg", "strangers/1.jpg", "strangers/@eaDir/1.jpg", "video/1.jpg"):
        (pile / file).parent.mkdir(parents=True, exist_ok=True)
        (pile / file).write_bytes(eileen)
        (pile / file).with_name("._1.jpg").write_bytes(b"\0\5\x16\7")
    (pile / "people" / ".Trash").mkdir()
    done = run("enroll", "g.gallery", "people")
    assert (done.code, done.err) == (0, "") and done.rows[0]["added"] == 1
    done = run("calibrate", "g.gallery", "strangers", "--fpir", "0.9")
    assert done.code == 1 and "1 " in done.err  # too few, but no bad one
    assert "._1" not in done.err
    done = run("identify", "--video", "video", "-g", "g.gallery")
    assert (done.code, done.err) == (0, "")


def test_a_bad_picture_does_not_end_a_folder_watched_as_a_video(run: Run, pile: Path) -> None:
    folder = pile / "video"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.jpg").write_bytes((pile / "eileen.jpg").read_bytes())
    (folder / "05.jpg").write_bytes(b"")
    run("enroll", "g.gallery", "Zoë", "eileen.jpg")
    done = run("identify", "--video", "video", "-g", "g.gallery", "--out", "o.mp4")
    assert done.code == 1
    assert [row["event"] for row in done.rows] == ["seen", "identified", "lost"]
    assert done.rows[-1]["frame"] == 11
    assert "05.jpg" in done.err and "1 of 12 pictures" in done.err
    assert Path("o.mp4").stat().st_size > 1000


def test_bad_pictures_do_not_stop_a_calibration(run: Run, pile: Path) -> None:
    run("enroll", "g.gallery", "Zoë", "eileen.jpg")
    folder = pile / "strangers"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.jpg").write_bytes((pile / "eileen.jpg").read_bytes())
    (folder / "bad.jpg").write_bytes(b"")
    (folder / "wall.png").write_bytes((pile / "wall.png").read_bytes())
    done = run("calibrate", "g.gallery", "strangers", "--fpir", "0.2")
    assert done.code == 1
    assert done.rows[0]["impostors"] == 30
    lines = done.err.splitlines()
    assert "bad.jpg" in lines[0] and "wall.png" in lines[1]
    assert lines[2].startswith("edgeface: the threshold was 0.") and ", now " in lines[2]


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


def test_strangers_are_forgotten_by_age(
    run: Run, pile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("enroll", "g.gallery", "Zoë", "eileen.jpg")
    day, now = 86400.0, time.time()
    rows = np.random.default_rng(3).standard_normal((3, 128))
    with Gallery.open("g.gallery") as store:
        for age, row in zip((40, 20, 1), rows, strict=True):
            monkeypatch.setattr(time, "time", lambda age=age: now - age * day)
            store.add_stranger(row)
        monkeypatch.setattr(time, "time", lambda: now - 2 * day)
        store.grow(store.person("stranger-1").id, rows[0])  # was seen again
    monkeypatch.setattr(time, "time", lambda: now)

    def left() -> list[str]:
        return [row["name"] for row in run("gallery", "list", "g.gallery").rows]

    done = run("gallery", "forget", "g.gallery", "--strangers", "--older-than", "50d")
    assert (done.code, len(left())) == (0, 4)
    done = run("gallery", "forget", "g.gallery", "--strangers", "--older-than", "2w")
    assert "strangers forgotten: 1" in done.err
    assert left() == ["Zoë", "stranger-1", "stranger-3"]
    assert rows[1].astype(np.float32).tobytes() not in Path("g.gallery").read_bytes()
    assert run("gallery", "forget", "g.gallery", "--strangers").code == 0
    assert left() == ["Zoë"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["Zoë", "--strangers"],
        ["Zoë", "--older-than", "3d"],
        ["--strangers", "--older-than", "soon"],
    ],
)
def test_whom_to_forget_is_said_once(run: Run, pile: Path, words: list[str]) -> None:
    run("enroll", "g.gallery", "Zoë", "eileen.jpg")
    assert run("gallery", "forget", "g.gallery", *words).code == 2
    assert len(run("gallery", "list", "g.gallery").rows) == 1
