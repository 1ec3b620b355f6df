"""What the command line prints: text that cannot steer a terminal, tables that fit, progress that
makes way, and one line for whatever goes wrong."""

from __future__ import annotations

import ast
import io
import json
import re
import sys

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from edgeface import errors
from edgeface.cli import output, progress
from edgeface.cli.failures import explain


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_no_text_steers_the_terminal_and_json_gives_it_back(text: str) -> None:
    shown = output.readable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in shown)
    assert not set(shown) & set("\u202e\u2066\u200f\u2028\ufeff")
    line = output.to_json({"name": text})
    assert json.loads(line) == {"name": text}
    assert line.isascii() or line.encode("utf-8")
    assert "\x9b" not in line and "\u202e" not in line


def test_names_of_every_script_stay_as_they_are() -> None:
    for name in ("Zoë", "李小龙", "عمر", "می\u200cخواهم", "👩\u200d🚀", "नमस्ते"):
        assert output.readable(name) == name


class Stream(io.StringIO):
    """A stdout of some encoding, on a terminal or not."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        super().__init__()
        self._name, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._name

    def write(self, text: str) -> int:
        text.encode(self._name)
        return super().write(text)

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_any_name_can_be_printed_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"name": "Zoë 李 👩 caf\udce9"}
    stdout, stderr = Stream(encoding), Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    output.print_rows([row], False)
    assert json.loads(stdout.getvalue()) == row
    output.say(f"skipped {row['name']}")
    assert "skipped Zo" in stderr.getvalue()
    terminal = Stream(encoding, terminal=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    output.print_rows([row], False)
    assert terminal.getvalue().splitlines()[1].startswith("Zo")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_table_is_wrapped_between_words(width: int) -> None:
    words = "a long explanation of what was found and of what can be done about it now"
    cells = [["check", "state", "detail"], ["cpu", "ok", words], ["李小龙", "bad", "short"]]
    lines = output.table(cells, width)
    assert max(len(line) for line in lines) <= width
    assert all(word in " ".join(lines).split() for word in words.split())
    where = lines[0].index("state")
    assert lines[-1].index("bad") == where - 3  # three characters take two columns each


def test_paths_are_wrapped_between_their_parts_and_the_shortest_word_stays_whole() -> None:
    path = "/home/somebody/pictures/2026/holidays/on-the-beach/IMG_20260714_181203.jpg"
    cells = [["picture", "status", "name"], [path, "match", "Eileen Collins"]]
    lines = output.table(cells, 60)
    assert max(map(len, lines)) <= 60
    pieces = [line.split("  ")[0] for line in lines[1:]]
    assert "".join(pieces) == path
    assert all(p.endswith(("/", "-")) for p in pieces[:-1])
    assert "Eileen Collins" in lines[1]
    wide = output.table([["x"], ["y" * 100]], 30)
    assert "".join(wide[1:]) == "y" * 100 and max(map(len, wide)) <= 30


def test_a_table_has_the_columns_it_was_given_even_when_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for rows, columns, expected in (
        ([], (), ""),
        ([], ("a", "b"), "a  b\n"),
        (
            [{"a": 1.23456, "b": [1.0, 2.5], "c": None}],
            ("c", "a", "b"),
            "c  a      b\n   1.235  1 2\n",
        ),
    ):
        stdout = Stream("utf-8", terminal=True)
        monkeypatch.setattr(sys, "stdout", stdout)
        output.print_rows(rows, False, columns=columns)
        assert stdout.getvalue() == expected


def test_progress_makes_way_for_whatever_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Stream("utf-8", terminal=True)  # stdout and stderr show on the same screen
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "REDRAWN", 0.0)
    for number in progress.each([1, 2, 3], "pictures"):
        output.emit(f"line {number}")
        output.say("message")
    lines = terminal.getvalue().split("\n")
    assert [line.rsplit("\x1b[K")[-1] for line in lines] == [
        *("line 1", "edgeface: message", "line 2", "edgeface: message", "line 3"),
        *("edgeface: message", ""),
    ]
    assert "pictures 2/3, " in terminal.getvalue()


def test_progress_is_silent_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Stream("utf-8")
    monkeypatch.setattr(sys, "stderr", pipe)
    assert list(progress.each([1, 2], "x")) == [1, 2]
    assert pipe.getvalue() == ""


def thrown(error: BaseException) -> BaseException:
    secret = "rtsp://user:password@camera"  # what a traceback with values would show
    try:
        raise error
    except BaseException as caught:
        assert secret
        return caught


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (errors.ImageError("a.jpg is empty"), 1, "a.jpg is empty"),
        (errors.GalleryError("nobody is called Ann"), 1, "Ann"),
        (errors.SourceError("a.mp4 is cut short"), 1, "cut"),
        (errors.CalibrationError("too few"), 1, "few"),
        (errors.BankError("damaged"), 1, "damaged"),
        (errors.DataError("damaged"), 1, "damaged"),
        (errors.ArgumentError("--every is 0"), 2, "--every"),
        (errors.CameraError("camera 3 is not there"), 2, "camera 3"),
        (errors.DependencyError("no cv2"), 2, "cv2"),
        (errors.ModelError("no such model"), 2, "model"),
        (errors.KernelError("no avx"), 2, "avx"),
        (errors.OutputError("no folder"), 2, "folder"),
        (MemoryError(), 2, "out of memory"),
        (RecursionError("maximum"), 2, "nested"),
        (OSError(36, "File name too long", "x" * 300), 2, "too long"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
        (FileNotFoundError(2, "No such file", "y"), 2, "y: No such file"),
        (ModuleNotFoundError("No module named 'cv2'"), 2, "cv2"),
        (UnicodeEncodeError("charmap", "ë", 0, 1, "no"), 2, "PYTHONUTF8"),
        (KeyError("secret"), 2, "KeyError"),
        (ZeroDivisionError(), 2, "ZeroDivisionError"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line_and_a_code(error: BaseException, code: int, says: str) -> None:
    message, found = explain(thrown(error))
    assert found == code
    assert says in message and "password" not in message and "Traceback" not in message


def test_the_library_names_no_option_of_the_command_line() -> None:
    """Who calls from Python has no flags; what an error tells them to do must work there."""
    found = []
    for path in (ROOT / "edgeface").rglob("*.py"):
        if "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                told = " ".join(t for t in texts if isinstance(t, str))
                found += [f"{path.name}:{node.lineno}" for _ in re.findall(r"(?<!\S)--[a-z]", told)]
    assert found == []
