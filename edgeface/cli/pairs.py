"""`edgeface verify --pairs`: a list of pairs, and what each threshold makes of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.cli.failures import Passed
from edgeface.cli.output import print_rows, say
from edgeface.cli.progress import Progress

if TYPE_CHECKING:
    from edgeface.describe import Describer
    from edgeface.pairs import Compared
    from edgeface.types import Threshold

STEP = 0.05  # of the curve's thresholds


def judge_list(
    describer: Describer,
    file: Path,
    root: Path | None,
    limit: Threshold | None,
    as_json: bool,
    *,
    distinct: bool,
    scores: Path | None,
) -> None:
    """Compare a list and print accuracy, precision, recall and F1 at the threshold in use, at the
    two that are best on this list, and at every `STEP`."""
    from edgeface.metrics import best_f1_threshold, best_threshold
    from edgeface.pairs import compare_pairs, read_pairs
    from edgeface.thresholds import expected

    listed = read_pairs(file, file.parent if root is None else root)
    itself = [pair for pair in listed if pair.first == pair.second]
    if itself:
        alike = sum(pair.same for pair in listed)
        rest = "are left out" if distinct else "say nothing of a model; --distinct leaves them out"
        say(f"{len(itself)} of {alike} pairs of one person are a file with itself: they {rest}")
    if distinct:
        listed = [pair for pair in listed if pair.first != pair.second]
    passed = Passed()
    with Progress("pictures") as line:
        found = compare_pairs(describer, listed, on_bad=passed.tell, progress=line.at)
    if len(found.pairs) < len(listed):
        say(f"{len(listed) - len(found.pairs)} of {len(listed)} pairs could not be compared")
    if scores is not None:
        write_scores(scores, found)
    used = limit or expected(describer.embedder.card, 1)
    rows = [
        _row(found, used.value, used.origin),
        _row(found, best_f1_threshold(found.similarity, found.same), "highest F1 of this list"),
        _row(found, best_threshold(found.similarity, found.same), "highest accuracy of this list"),
        *(_row(found, STEP * i, "") for i in range(20)),
    ]
    print_rows(rows, as_json)
    passed.finish()


def _row(found: Compared, threshold: float, origin: str) -> dict[str, Any]:
    from edgeface.metrics import verified

    at = verified(found.similarity, found.same, threshold)
    return {
        "threshold": round(min(max(threshold, -1.0), 1.0), 4),  # infinite: all, or none
        "accuracy": round(at.accuracy, 4),
        "precision": round(at.precision, 4),
        "recall": round(at.recall, 4),
        "f1": round(at.f1, 4),
        "origin": origin,
    }


def write_scores(file: Path, found: Compared) -> None:
    """A line per pair that could be compared, in the order of the list."""
    from edgeface.atomic import replacing

    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["first", "second", "same", "similarity"])
    for pair, value in zip(found.pairs, found.similarity, strict=True):
        table.writerow([pair.first, pair.second, int(pair.same), f"{value:.4f}"])
    with replacing(file) as stream:
        stream.write(text.getvalue().encode("utf-8", "backslashreplace"))
