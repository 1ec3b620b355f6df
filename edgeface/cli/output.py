"""How results and messages are printed.

Data go to stdout: JSON lines on a pipe or on demand, an aligned table on a terminal. Messages go to
stderr, one line each. Both show text that came from outside (names, files, addresses) without the
characters that steer a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TextIO

import typer

from edgeface.cli import progress
from edgeface.errors import OutputError

Json = Annotated[bool, typer.Option("--json", help="JSON lines even on a terminal.")]

# C0 and C1 controls, line separators, and what turns the direction of text around.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_UNPAIRED = re.compile("[\ud800-\udfff]")  # how Python keeps the bytes of a name that is not UTF-8
GAP = "  "
NARROWEST = 8  # columns of a cell below which wrapping helps nobody


def readable(text: str) -> str:
    """`text` with every character that would steer a terminal written as an escape."""
    shown = _STEERING.sub(lambda m: _escaped(m.group()), text)
    return _UNPAIRED.sub(lambda m: rf"\x{ord(m.group()) & 0xFF:02x}", shown)


def _escaped(character: str) -> str:
    number = ord(character)
    return rf"\x{number:02x}" if number < 0x100 else rf"\u{number:04x}"


def as_lines(as_json: bool) -> bool:
    """Whether stdout gets JSON lines."""
    return as_json or not sys.stdout.isatty()


def to_json(row: dict[str, Any]) -> str:
    """A row as one JSON line that any stdout takes: what it cannot encode is escaped, as JSON does.

    A file name that is not UTF-8 keeps its bytes as `\\udc80`…`\\udcff`, Python's way.
    """
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    text = json.dumps(row, ensure_ascii=encoding not in {"utf-8", "utf8"})
    escape = lambda m: rf"\u{ord(m.group()):04x}"  # noqa: E731
    return _UNPAIRED.sub(escape, _STEERING.sub(escape, text))


def emit(line: str) -> None:
    """Print one line of data at once; end quietly when nobody reads any more.

    Raises:
        OutputError: stdout cannot be written, as on a full disk.
    """
    progress.clear()
    try:
        _print(line, sys.stdout)
    except BrokenPipeError:
        _close(sys.stdout)
        raise typer.Exit(0) from None
    except OSError as error:
        _close(sys.stdout)
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def say_passed(suffixes: Iterable[tuple[str, int]]) -> None:
    """Tell of files that were passed over, as (suffix, how many)."""
    for suffix, count in suffixes:
        files = "1 file" if count == 1 else f"{count} files"
        say(f"passed over {files} *{suffix}: convert them to JPEG")


def say(message: object) -> None:
    """Print one line of message, `edgeface: …`, to stderr."""
    progress.clear()
    try:
        _print(f"edgeface: {readable(' '.join(str(message).splitlines()))}", sys.stderr)
    except OSError:  # nobody listens; the exit code still tells
        _close(sys.stderr)


def _print(line: str, to: TextIO) -> None:
    encoding = getattr(to, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=to, flush=True)


def _close(stream: TextIO) -> None:
    # What is still buffered would fail again when Python closes the stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Messages(logging.Handler):
    """What the library logs, as messages."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def print_rows(
    rows: Iterable[dict[str, Any]], as_json: bool, *, columns: Sequence[str] = ()
) -> None:
    """Rows as JSON lines, each as soon as there is one, or as a table once all are there.

    A table has the `columns`, by default those of the first row, and is as wide as the terminal:
    wide cells are wrapped between words.
    """
    if as_lines(as_json):
        for row in rows:
            emit(to_json(row))
        return
    known = list(rows)
    names = list(columns or (known[0] if known else ()))
    cells = [[_cell(row[name]) for name in names] for row in known]
    for line in table([names, *cells], shutil.get_terminal_size().columns) if names else []:
        emit(line)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(f"{v:.0f}" if isinstance(v, float) else _cell(v) for v in value)
    return readable(f"{value:.4g}" if isinstance(value, float) else str(value))


def table(cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """The lines of an aligned table of at most `width` columns, wide cells wrapped between words.

    The widest column gives way first, none below its longest word while another can.
    """
    columns = list(zip(*cells, strict=True))
    widths = [max(map(_columns, column)) for column in columns]
    words = [max(_columns(p.strip()) for c in column for p in _pieces(c)) for column in columns]
    room = width - len(GAP) * (len(widths) - 1)
    while sum(widths) > room:
        i = max(range(len(widths)), key=lambda i: (widths[i] > words[i], widths[i]))
        if widths[i] <= NARROWEST:
            break
        widths[i] -= 1
    lines = []
    for row in cells:
        wrapped = [_wrapped(cell, w) for cell, w in zip(row, widths, strict=True)]
        for i in range(max(map(len, wrapped))):
            parts = [w[i] if i < len(w) else "" for w in wrapped]
            padded = [p + " " * (w - _columns(p)) for p, w in zip(parts, widths, strict=True)]
            lines.append(GAP.join(padded).rstrip())
    return lines


def _pieces(cell: str) -> list[str]:
    """The parts of a cell between which a line may end: words, and the parts of paths."""
    return re.split(r"(?<=[\s/,@-])", cell)


def _wrapped(cell: str, width: int) -> list[str]:
    lines = [""]
    for piece in _pieces(cell):
        if _columns((lines[-1] + piece).rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
        while _columns(lines[-1].rstrip()) > width:  # a word wider than the column
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if unicodedata.category(c) in marks else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
