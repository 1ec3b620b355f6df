"""The pictures of the report, as SVG: the same figures give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Documents = Mapping[str, Mapping[str, Any]]
OWN, OTHER = "#0b6e4f", "#8a8f98"
STAGES = ("decode", "detect", "track", "align", "quality", "embed", "gallery", "decide", "follow")
SYSTEMS = {
    "onnxruntime": "edgeface, ONNX Runtime",
    "openvino": "edgeface, OpenVINO",
    "insightface_style": "insightface-style",
    "insightface_style_tight": "the same, input fitted",
    "insightface": "InsightFace's package",
    "uniface": "UniFace",
    "opencv": "OpenCV's face API",
    "face_recognition": "face_recognition (dlib)",
}


def produced(documents: Documents, name: str) -> dict[str, Any]:
    """The figures of a bench that were produced; none when it was not run."""
    found = documents.get(name, {}).get("figures", {})
    return {k: v for k, v in found.items() if v is not None}


def draw(documents: Documents, folder: Path) -> list[tuple[str, str]]:
    """Draw what the documents have figures for; (file, caption) of each picture."""
    plans: list[tuple[str, str, Callable[[Documents, Axes], bool], tuple[float, float]]] = [
        ("pipeline.svg", "Whole pipeline, frames per second on two threads", rates, (8, 3.4)),
        ("stages.svg", "Where the milliseconds of a frame go, ONNX Runtime", stages, (8, 2.8)),
        (
            "embedders.svg",
            "Speed, size and accuracy of embedders: one thread, batch 1, the faster runtime; "
            "areas are megabytes",
            embedders,
            (8, 4),
        ),
        ("search.svg", "Exact search, milliseconds per probe over N (D = 512)", search, (8, 4)),
        ("gallery.svg", "Gallery search, milliseconds per probe over N", gallery, (8, 4)),
    ]
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "edgeface", "font.size": 9}
    made = []
    with mpl.rc_context(settings):
        for file, caption, plan, size in plans:
            picture = Figure(figsize=size, layout="constrained")
            axes = picture.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            if plan(documents, axes):
                picture.savefig(folder / file, metadata={"Date": None}, facecolor="white")
                made.append((file, caption))
            else:
                (folder / file).unlink(missing_ok=True)
    return made


def sizes(found: Mapping[str, Any]) -> list[str]:
    """The frame sizes of a pipeline document, as in its keys, small first."""
    names = {m[1] for k in found if (m := re.match(r"pipeline\.(\d+x\d+)\.", k))}
    return sorted(names, key=lambda n: int(n.split("x")[0]))


def rates(documents: Documents, axes: Axes) -> bool:
    """Bars: frames per second of every system, by frame size."""
    found = produced(documents, "pipeline")
    clips = sizes(found)
    rows = [(s, c) for s in SYSTEMS for c in clips if f"pipeline.{c}.fps.{s}" in found]
    if not rows:
        return False
    for place, (system, clip) in enumerate(reversed(rows)):
        rate = found[f"pipeline.{clip}.fps.{system}"]
        own = system in {"onnxruntime", "openvino"}
        axes.barh(place, rate, color=OWN if own else OTHER, alpha=1 if clip == clips[0] else 0.6)
        axes.annotate(f" {rate:.3g}", (rate, place), va="center")
    axes.set_yticks(range(len(rows)), [f"{SYSTEMS[s]}, {c}" for s, c in reversed(rows)])
    axes.set_xlabel("frames per second")
    return True


def stages(documents: Documents, axes: Axes) -> bool:
    """Stacked bars: milliseconds of each stage, by frame size."""
    found = produced(documents, "pipeline")
    clips = [c for c in sizes(found) if f"pipeline.{c}.stage_ms.detect" in found]
    colours = mpl.colormaps["tab10"]
    for place, clip in enumerate(reversed(clips)):
        left = 0.0
        for number, stage in enumerate(STAGES):
            value = found.get(f"pipeline.{clip}.stage_ms.{stage}", 0.0)
            label = stage if place == 0 else None
            axes.barh(place, value, left=left, color=colours(number), label=label)
            if value > 0.4:
                axes.annotate(f"{value:.1f}", (left + value / 2, place), ha="center", va="center")
            left += value
    if clips:
        axes.set_yticks(range(len(clips)), reversed(clips))
        axes.set_xlabel("ms per frame")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return bool(clips)


def embedders(documents: Documents, axes: Axes) -> bool:
    """Milliseconds per face against accuracy, one circle per model and precision."""
    speed, accuracy = produced(documents, "embed"), produced(documents, "accuracy")
    weight = produced(documents, "size")
    some = False
    for prefix, name, colour in (("", "edgeface", OWN), ("edge.", "edgeface-edge", OWN)):
        for precision in ("fp32", "int8"):
            rates = [
                v
                for k, v in speed.items()
                if re.fullmatch(rf"{re.escape(prefix)}speed\.\w+\.{precision}\.b1\.fps", k)
            ]
            right = accuracy.get(f"{prefix}lfw.{precision}")
            stored = "fp16" if precision == "fp32" else precision
            if rates and right is not None:
                mb = speed[f"{prefix}size_mb.{stored}"]
                _circle(axes, 1000 / max(rates), right, mb, f"{name} {stored}", colour)
                some = True
    for precision in ("fp32", "int8"):
        rates = [
            v
            for k, v in speed.items()
            if re.fullmatch(rf"original\.speed\.\w+\.{precision}\.b1\.fps", k)
        ]
        right = accuracy.get(f"original.{precision}.lfw")
        mb = weight.get(f"size.model_mb.original_mobilefacenet.{precision}")
        if rates and right is not None and mb is not None:
            _circle(axes, 1000 / max(rates), right, mb, f"original {precision}", OTHER)
    axes.set_xlabel("ms per face")
    axes.set_ylabel("LFW accuracy, %")
    axes.margins(0.3)
    return some


def _circle(axes: Axes, x: float, y: float, mb: float, label: str, colour: str) -> None:
    axes.scatter([x], [y], s=[200 * mb], color=colour, alpha=0.6)
    axes.annotate(f"{label}\n{mb:.2f} MB", (x, y), ha="center", va="center")


def search(documents: Documents, axes: Axes) -> bool:
    """Milliseconds of one probe over the number of rows: ours and the peers in the same run."""
    found = produced(documents, "score")
    pattern = re.compile(r"score\.(\w+)\.N(\d+)\.D512\.Q1\.t1\.(ms|ratio_to_\w+)")
    lines: dict[tuple[str, bool], dict[int, float]] = {}
    for key, value in found.items():
        match = pattern.fullmatch(key)
        if match is None:
            continue
        kind, n, what = match[1], int(match[2]), match[3]
        own = found.get(f"score.{kind}.N{n}.D512.Q1.t1.ms")
        if what == "ms":
            lines.setdefault((f"edgeface {kind}", True), {})[n] = value
        elif kind == "fp32" and own is not None and "best" not in what:
            # A ratio is the other's time over ours in the same round.
            name = what.removeprefix("ratio_to_")
            lines.setdefault((name, False), {})[n] = value * own
    return _lines(axes, lines, "rows")


def gallery(documents: Documents, axes: Axes) -> bool:
    """Milliseconds of one search over the number of samples."""
    found = produced(documents, "gallery")
    number = {"10k": 10_000, "100k": 100_000, "1M": 1_000_000}
    lines: dict[tuple[str, bool], dict[int, float]] = {}
    for key, value in found.items():
        match = re.fullmatch(r"gallery\.(\w+)\.(?:(\w+)\.)?search_ms", key)
        if match and match[1] in number:
            name = match[2] or "edgeface"
            lines.setdefault((name, match[2] is None), {})[number[match[1]]] = value
    return _lines(axes, lines, "samples")


def _lines(axes: Axes, lines: Mapping[tuple[str, bool], Mapping[int, float]], what: str) -> bool:
    """One line per name over N, both axes logarithmic; this project's drawn thick."""
    for (name, own), points in sorted(lines.items(), key=lambda x: (not x[0][1], x[0][0])):
        x = sorted(points)
        axes.plot(x, [points[n] for n in x], "o-", lw=2.5 if own else 1, label=name)
    if lines:
        axes.set(xscale="log", yscale="log", xlabel=what, ylabel="ms per probe")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return bool(lines)
