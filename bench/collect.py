"""Collects the figures of several runs of one bench in a document, with its tables beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.__main__ import commit, machine, today

Figures = dict[str, float | str | None]


def update(
    path: Path,
    figures: Figures,
    *,
    bench: str,
    arguments: str,
    totals: Callable[[Figures], Figures],
    markdown: Callable[[dict[str, Any]], str],
) -> None:
    """Puts the figures over those of the document at `path`, adds `totals` over all of them, and
    writes `markdown` of the document beside it. `runs` says which arguments ran at which commit."""
    document: dict[str, Any] = {"figures": {}, "runs": {}}
    if path.exists():
        document = json.loads(path.read_text())
    merged: Figures = document["figures"] | figures
    merged |= totals(merged)
    document = {
        "bench": bench, "machine": machine(), "commit": commit(), "date": today(),
        "runs": document["runs"] | {arguments: commit()}, "figures": dict(sorted(merged.items())),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(document))
