"""The figures of `bench score` as tables, with what they are to reach and what they lose."""

from __future__ import annotations

import re
from typing import Any

from bench.collect import Figures
from bench.report_pages import measured

PROBES = (1, 8, 32)
# What the kernel is built to reach, for Q = 1, 8 and 32.
TARGETS = {
    "fp32 of the ceiling that binds": (
        "score.fp32.N{n}.D{d}.Q{q}.t1.fraction_of_ceiling", (0.88, 0.75, 0.88)),
    "fp32 / best float peer": ("score.fp32.N{n}.D{d}.Q{q}.t1.ratio_to_best_peer", (1.0, 1.5, 1.2)),
    "int8 / best float peer": ("score.int8.N{n}.D{d}.Q{q}.t1.ratio_to_best_peer", (3.2, 3.2, 2.8)),
    "int8 / ONNX Runtime dynamic INT8": (
        "score.int8.N{n}.D{d}.Q{q}.t1.ratio_to_onnxruntime_int8", (1.1, 1.3, 1.4)),
    "int8 / faiss": ("score.nearest.N{n}.D{d}.Q{q}.t1.int8_ratio_to_faiss", (3.4, 5, 3.8)),
    "int8 / usearch": ("score.nearest.N{n}.D{d}.Q{q}.t1.int8_ratio_to_usearch", (3.4, 5, 3.8)),
    "int8 / the original's job": (
        "score.job.N{n}.D{d}.Q{q}.t1.int8_ratio_to_original", (50, 35, 12)),
    "fp32 of the ceiling, 2 threads": ("score.fp32.N{n}.D{d}.Q{q}.t2.fraction_of_ceiling", None),
    "fp32 / best float peer, 2 threads": (
        "score.fp32.N{n}.D{d}.Q{q}.t2.ratio_to_best_peer", None),
    "int8 / best float peer, 2 threads": (
        "score.int8.N{n}.D{d}.Q{q}.t2.ratio_to_best_peer", None),
    "fp32 ms": ("score.fp32.N{n}.D{d}.Q{q}.t1.ms", None),
    "int8 ms": ("score.int8.N{n}.D{d}.Q{q}.t1.ms", None),
    "int8 ms, 2 threads": ("score.int8.N{n}.D{d}.Q{q}.t2.ms", None),
}  # fmt: skip


def totals(figures: Figures) -> Figures:
    """Figures over all cells."""
    wrong = [v for k, v in figures.items()
             if re.fullmatch(r"score\.int8\.N\d+\.D\d+\.decisions_differing", k)]  # fmt: skip
    if not wrong:
        return {}
    return {"score.int8.decisions_differing": float(sum(float(v or 0) for v in wrong))}


def markdown(document: dict[str, Any]) -> str:
    figures: Figures = document["figures"]
    of = document["machine"]
    cells = sorted({(int(d), int(n)) for k in figures
                    if (m := re.match(r"score\.fp32\.N(\d+)\.D(\d+)\.Q", k))
                    for n, d in [m.groups()]}, reverse=True)  # fmt: skip
    lines = ["# Scoring", "", f"{of['cpu']}, kernel {figures.get('score.kernel')}. "
             f"{measured(document)}. Written by `python -m bench score --update`; what is measured "
             "and how: `bench/score.py`. Ratios are times of others over ours in the same round. "
             "**Bold** misses its target.", ""]  # fmt: skip
    for d, n in cells:
        lines += [f"## N = {n:,}, D = {d}", "", "| | Q = 1 | Q = 8 | Q = 32 | target |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for label, (key, target) in TARGETS.items():
            values = [figures.get(key.format(n=n, d=d, q=q)) for q in PROBES]
            if all(v is None for v in values):
                continue
            row = [_cell(v, target[i] if target else None) for i, v in enumerate(values)]
            wanted = " / ".join(f"{t:g}" for t in target) if target else ""
            lines.append(f"| {label} | {' | '.join(row)} | {wanted} |")
        lines.append("")
    return "\n".join([*lines, *_rest(figures), *_lost(figures)]) + "\n"


def _cell(value: float | str | None, target: float | None) -> str:
    if not isinstance(value, (int, float)):
        return ""
    text = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"**{text}**" if target is not None and value < target else text


def _rest(figures: Figures) -> list[str]:
    shown = re.compile(
        r"score\.(submodels|linear|bank|call)\.|.*numba_time_to_chosen|.*(differing|fallback_rate)$"
    )
    lines = ["## Everything else", "", "| figure | value |", "|---|---|"]
    lines += [f"| `{k}` | {_cell(v, None)} |" for k, v in figures.items() if shown.match(k)]
    return [*lines, ""]


def _lost(figures: Figures) -> list[str]:
    """Every comparison that somebody else wins."""
    lost = [(k, v) for k, v in figures.items()
            if re.search(r"(fp32|int8)[^ ]*ratio_to_", k) and isinstance(v, float) and v < 1
            and not re.search(r"\.fp32\..*ratio_to_onnxruntime_int8", k)]  # fmt: skip
    lines = ["## Cells lost", ""]
    return lines + ([f"- `{k}` {v:.2f}" for k, v in lost] or ["None."])
