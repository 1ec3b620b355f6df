"""A page of figures as Markdown: every figure of a document, in tables by the parts of its key."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def shown(value: object) -> str:
    """A figure as text: four digits, an empty cell for none."""
    if value is None:
        return ""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def measured(document: Mapping[str, Any]) -> str:
    """From which commit and when the figures come: `Commit 1234abc, 2026-11-25`. A `+` behind the
    commit says that files had changes: a figure of before such runs were refused."""
    date = document.get("date")
    return f"Commit {document['commit']}{f', {date}' if date else ''}"


def page(document: Mapping[str, Any]) -> str:
    """A page with every figure of a document, in sections by the parts of their keys."""
    name = document["bench"]
    for file in (HERE / f"{name}_report.py", HERE / f"{name}.py"):
        if file.exists() and "\ndef markdown(" in file.read_text(encoding="utf-8"):
            return str(importlib.import_module(f"bench.{file.stem}").markdown(document))
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    summary = ast.get_docstring(ast.parse(text)) or ""
    machine = ", ".join(f"{k} {v}" for k, v in document["machine"].items())
    lines = [f"# {name}", "", summary, "", f"{measured(document)}; {machine}.", ""]
    if "command" in document:
        lines += [f"`{document['command']}`", ""]
    return "\n".join([*lines, *tables(name, document["figures"])]) + "\n"


def tables(name: str, figures: Mapping[str, object]) -> Iterator[str]:
    """Tables of figures: the last part of a key is the column, the one before it the row, what is
    left the heading. Rows share a table where they share a column; a row alone is written down the
    page."""
    headings: dict[str, dict[str, dict[str, object]]] = {}
    for key, value in figures.items():
        *rest, column = key.removeprefix(f"{name}.").split(".")
        row = rest.pop() if rest else ""
        headings.setdefault(".".join(rest), {}).setdefault(row, {})[column] = value
    for heading, rows in headings.items():
        for part in alike(rows):
            (row, values), *more = part.items()
            title = heading if more else ".".join(word for word in (heading, row) if word)
            yield from ["", *([f"## {title}", ""] if title else [])]
            if more:
                columns = list(dict.fromkeys(column for row in part.values() for column in row))
                yield f"| | {' | '.join(columns)} |"
                yield "|---" * (len(columns) + 1) + "|"
                for row, values in part.items():
                    yield f"| {row} | {' | '.join(shown(values.get(c)) for c in columns)} |"
            else:
                yield from ("| | |", "|---|---|")
                yield from (f"| {column} | {shown(value)} |" for column, value in values.items())


def alike(rows: Mapping[str, dict[str, object]]) -> list[dict[str, dict[str, object]]]:
    """Rows in groups, each of which begins with a row that the others share a column with."""
    groups: list[dict[str, dict[str, object]]] = []
    for row, values in rows.items():
        for group in groups:
            if next(iter(group.values())).keys() & values.keys():
                group[row] = values
                break
        else:
            groups.append({row: values})
    return groups
