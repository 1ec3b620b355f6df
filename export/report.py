"""`python -m export report`: measure every shipped embedder beside the original's, bring what was
measured into their cards, and write the table as Markdown, JSON and a picture.

Runs `bench accuracy --peers` and `bench embed` with one and with two threads, each in a process of
its own (about five minutes), or takes their documents from `--from FOLDER` (accuracy.json,
embed.json, embed-2-threads.json), where it also leaves them. Nothing in the table is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from edgeface.models import WEIGHTS, read_card, write_card
from export.protocols.embedders import keyed, original, size_mb

REPORTS = Path(__file__).parents[1] / "bench" / "reports"
Figures = dict[str, Any]
MODELS = {
    "fp32": "MobileFaceNet",
    "int8": "MobileFaceNet",
    "edge.fp32": "edge variant",
    "edge.int8": "edge variant",
    "original.fp32": "the original's",
    "original.fp16": "the original's",
    "original.int8": "the original's",
}
CARDS = {
    "fp32": "mobilefacenet",
    "int8": "mobilefacenet-int8",
    "edge.fp32": "mobilefacenet-edge",
    "edge.int8": "mobilefacenet-edge-int8",
}
COLUMNS = (
    "backbone", "precision", "runtime", "size MB", "FPS b1 1T", "FPS b32 1T", "FPS b1 2T",
    "FPS b32 2T", "LFW %", "TAR@FAR=1e-3 %", "LFW-311 NMI", "ARI", "pairwise F", "105-test NMI",
    "ARI ", "pairwise F ",
)  # fmt: skip


def documents(folder: Path, shared: Path | None, *, run: bool) -> dict[str, Figures]:
    """The figures of the three benches, measured now or read from `folder`."""
    runs = {
        "accuracy": ["accuracy", "--peers"],
        "embed": ["embed", "--threads", "1"],
        "embed-2-threads": ["embed", "--threads", "2"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    where = ["--shared", str(shared)] if shared else []
    for name, arguments in runs.items():
        target = folder / f"{name}.json"
        if run:
            command = [sys.executable, "-m", "bench", *arguments, *where, "--json", str(target)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in runs}


def sizes(key: str, runtime: str, figures: Figures, shared: Path) -> float | None:
    """Megabytes of the file a runtime loads."""
    front, _, precision = key.rpartition(".")
    if front == "original":
        return size_mb(original(shared)[precision])
    stem = f"{front + '.' if front else ''}size_mb.{'fp16' if precision == 'fp32' else precision}"
    special = figures.get(f"{stem}.openvino") if runtime == "openvino" else None
    return special or figures.get(stem)


def rows(found: dict[str, Figures], shared: Path) -> list[Figures]:
    """One row per model and runtime it was timed in."""
    accuracy, one = found["accuracy"]["figures"], found["embed"]["figures"]
    two, table = found["embed-2-threads"]["figures"], []
    for key, backbone in MODELS.items():
        front, _, precision = key.rpartition(".")
        front = f"{front}." if front else ""
        for runtime in ("onnxruntime", "openvino"):
            speed = f"{front}speed.{runtime}.{precision}"
            if f"{speed}.b1.fps" not in one:
                continue
            values: list[Any] = [backbone, precision, runtime, sizes(key, runtime, one, shared)]
            values += [f.get(f"{speed}.b{b}.fps") for f in (one, two) for b in (1, 32)]
            names = keyed("", key, dict.fromkeys(("lfw", "tar_at_far1e-3"), 0.0))
            for data in ("lfw311", "test105"):
                names |= keyed(data, key, dict.fromkeys(("nmi", "ari", "pairwise_f"), 0.0))
            values += [accuracy.get(name) for name in names]
            table.append(dict(zip(COLUMNS, values, strict=True)))
    return table


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    two = "%" in column or "MB" in column or column == "±"
    return f"{value:.{0 if column.startswith('FPS') else 2 if two else 4}f}"


def lines_of(columns: Sequence[str], table: Sequence[Figures]) -> list[str]:
    """A table in Markdown."""
    return [
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
        *(f"| {' | '.join(_cell(c, row[c]) for c in columns)} |" for row in table),
    ]


def markdown(table: list[Figures], found: dict[str, Figures]) -> str:
    machine = found["embed"]["machine"]
    lines = [
        "# Embedders: size, speed, accuracy",
        "",
        f"`python -m export report`, commit {found['embed']['commit']}, {machine['cpu']}, "
        f"{machine['cores']} cores, onnxruntime {machine.get('onnxruntime')}, openvino "
        f"{machine.get('openvino')}. One thread: process CPU time on one core; two: wall time. "
        "Accuracy of ours by the runtime that `auto` chooses, the original's by OpenVINO.",
        "",
        *lines_of(COLUMNS, table),
    ]
    return "\n".join(lines) + "\n"


def picture(table: list[Figures], target: Path) -> None:
    """Speed against accuracy, the area of a dot its size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    colours = {"the original's": "tab:gray", "MobileFaceNet": "tab:blue"}
    shapes = {"onnxruntime": "o", "openvino": "s"}
    places: dict[tuple[str, str], list[Figures]] = {}
    for row in table:
        if row["LFW %"] is None:
            continue
        places.setdefault((row["backbone"], row["precision"]), []).append(row)
        axes.scatter(
            row["FPS b1 1T"],
            row["LFW %"],
            s=120 * (row["size MB"] or 1),
            alpha=0.6,
            marker=shapes[row["runtime"]],
            color=colours.get(row["backbone"], "tab:orange"),
        )
    for (backbone, precision), rows in places.items():
        # A line joins the two runtimes of a file; integers are told of below it, floats above.
        ends = sorted((row["FPS b1 1T"], row["LFW %"]) for row in rows)
        axes.plot(*zip(*ends, strict=True), color="0.8", zorder=0)
        below = precision != "fp32"
        axes.annotate(
            f"{backbone} {precision}, {rows[0]['size MB']:.2f} MB",
            ends[-1],
            xytext=(0, -12 if below else 12),
            textcoords="offset points",
            ha="right",
            va="top" if below else "bottom",
            fontsize=8,
        )
    for runtime, shape in shapes.items():
        axes.scatter([], [], marker=shape, color="0.6", label=runtime)
    axes.legend(frameon=False, loc="center left")
    axes.margins(y=0.15)
    axes.set_xscale("log")
    axes.set_xlabel("faces per second, batch 1, one thread")
    axes.set_ylabel("LFW, %")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    plt.close(figure)


def into_cards(accuracy: Figures) -> list[str]:
    """Write the measured figures into the shipped cards; the names of those changed."""
    changed = []
    for key, name in CARDS.items():
        card = WEIGHTS / f"{name}.json"
        front, _, precision = key.rpartition(".")
        front = f"{front}." if front else ""
        if not card.exists() or f"{front}lfw.{precision}" not in accuracy:
            continue
        known = read_card(card)
        metrics = dict(cast(Figures, known.about.get("metrics", {})))
        percent = {"lfw_accuracy": "lfw", "lfw_std": "lfw_std", "tar_at_far_1e-3": "tar_at_far1e-3"}
        for field, figure in percent.items():
            metrics[field] = round(accuracy[f"{front}{figure}.{precision}"] / 100, 5)
        for data in ("lfw311", "test105"):
            for figure in ("nmi", "ari", "pairwise_f"):
                value = accuracy.get(f"{front}{data}.{precision}.{figure}")
                if value is not None:
                    metrics[f"{data}_{figure}"] = round(value, 5)
        for figure in ("mean", "min"):
            value = accuracy.get(f"{front}cosine.{precision}.{figure}")
            if value is not None:
                metrics[f"cosine_to_float_{figure}"] = round(value, 5)
        write_card(replace(known, about={**known.about, "metrics": metrics}))
        changed.append(name)
    return changed


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export report", description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--from", dest="folder", type=Path, help="documents measured before")
    parser.add_argument("--out", type=Path, default=REPORTS)
    args = parser.parse_args(argv)
    if args.folder and not (args.folder / "accuracy.json").exists():
        print(f"report: no accuracy.json in {args.folder}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.folder or args.out
    found = documents(folder, args.shared, run=args.folder is None)
    table = rows(found, args.shared)
    document = {k: found["embed"][k] for k in ("machine", "commit")}
    document = {"bench": "models", **document, "figures": {}, "table": table}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (args.out / "models.json").write_text(text + "\n")
    (args.out / "models.md").write_text(markdown(table, found))
    picture(table, args.out / "models.png")
    for name in into_cards(found["accuracy"]["figures"]):
        print(f"report: card of {name} brought up to date", file=sys.stderr)
    print(args.out / "models.md")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
