"""`python -m export overlap`: leave out training identities that look like test identities.

Uses the teacher's cached embeddings (`export targets`) of a pack where there are any.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.data import filter_overlap, open_pack
from export.teachers import open_teacher, run_teacher, target_file


def embeddings_of(pack: Path, teacher: Path) -> NDArray[np.floating]:
    """(N, d) embeddings of every row of a pack, cached or computed now."""
    kept = target_file(pack, teacher)
    if kept.exists():
        rows: NDArray[np.floating] = np.load(kept).astype(np.float32)
        return rows
    images = open_pack(pack).images
    runner = open_teacher(teacher, 32)
    parts = (images[i : i + 1024] for i in range(0, len(images), 1024))
    return np.concatenate([run_teacher(runner, np.asarray(part)) for part in parts])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export overlap", description=__doc__)
    parser.add_argument("pack", type=Path, help="training pack")
    parser.add_argument("tests", nargs="+", type=Path, help="packs of the test identities")
    parser.add_argument("--teacher", type=Path, required=True, help="embedder ONNX that compares")
    parser.add_argument("--limit", type=float, default=0.6, help="cosine of two identities' means")
    args = parser.parse_args(argv)
    gone = filter_overlap(
        lambda pack: embeddings_of(pack, args.teacher), args.pack, args.tests, args.limit
    )
    print(f"overlap: {len(gone)} identities left out of {args.pack}", file=sys.stderr)
    print("\n".join(gone))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
