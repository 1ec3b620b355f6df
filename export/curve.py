"""`python -m export curve JOURNAL`: what a journal of `export further` says, as picture and line.

The picture shows TAR on held-out families over the pictures seen, at three sizes of one side; the
line on stdout says how many pictures and hours, and how much the newest fifth of the curve rose:
a training is done when that is no more than chance.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgeface.errors import DataError

SHOWN = {
    "kin.tar1e-3": "as they are",
    "kin.px24.tar1e-3": "one side 24 pixels",
    "kin.px16.tar1e-3": "one side 16 pixels",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training came. `rise` is what the first of `SHOWN` gained over the newest fifth of
    the pictures by a straight line through it, None with fewer than three looks there."""

    pictures: int
    hours: float
    best: float
    rise: float | None


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a journal; DataError names the first that is none."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            lines.append({str(key): float(value) for key, value in line.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}:{number} is no line of a journal, expected a JSON object of numbers; "
                "remove it"
            ) from error
    return lines


def progress(lines: list[dict[str, float]]) -> Progress:
    """What `lines` say; a run that was resumed counts its seconds anew, so they are added up."""
    looks = [(x.get("pictures", 0.0), x["kin.tar1e-3"]) for x in lines if "kin.tar1e-3" in x]
    if not looks:
        raise DataError("the journal has no figures on held-out people; train to the first look")
    seconds, last = 0.0, 0.0
    for now in (x["s"] for x in lines if "s" in x):
        seconds += now - last if now >= last else now
        last = now
    at, tar = np.array(looks).T
    newest = at >= 0.8 * at[-1]
    rise = None
    if newest.sum() >= 3:
        slope, _ = np.polyfit(at[newest], tar[newest], 1)
        rise = round(float(slope * (at[newest][-1] - at[newest][0])), 4)
    return Progress(int(at[-1]), round(seconds / 3600, 2), round(float(tar.max()), 4), rise)


def draw(lines: list[dict[str, float]], target: Path) -> None:
    """The curves as a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for key, label in SHOWN.items():
        points = [(x.get("pictures", 0.0) / 1000, x[key]) for x in lines if key in x]
        axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set_xlabel("pictures seen, thousands")
    axes.set_ylabel("TAR at FAR 1e-3, families held out")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    plt.close(figure)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export curve", description=__doc__)
    parser.add_argument("journal", type=Path, help="further.jsonl of a run")
    parser.add_argument("--out", type=Path, help="the picture; without, beside the journal")
    args = parser.parse_args(argv)
    if not args.journal.is_file():
        print(f"curve: no file {args.journal}", file=sys.stderr)
        return 2
    lines = read(args.journal)
    found = progress(lines)
    draw(lines, args.out or args.journal.with_suffix(".png"))
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
