"""How results are printed: JSON lines on a pipe or on demand, an aligned table on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON lines even on a terminal.")]


def as_lines(as_json: bool) -> bool:
    """Whether stdout gets JSON lines."""
    return as_json or not sys.stdout.isatty()


def emit(line: str) -> None:
    """Print one line of data at once; end quietly when nobody reads any more."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # What is still buffered would fail again when Python closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def print_rows(
    rows: Sequence[dict[str, Any]], as_json: bool, *, columns: Sequence[str] = ()
) -> None:
    """Rows as JSON lines on a pipe or on demand, as an aligned table on a terminal."""
    if as_lines(as_json):
        for row in rows:
            emit(json.dumps(row, ensure_ascii=False))
        return
    names = list(columns or (rows[0] if rows else ()))
    cells = [names, *[["" if r[n] is None else str(r[n]) for n in names] for r in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        emit("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
