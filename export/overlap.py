"""`python -m export overlap`: leave out training identities that look like test identities."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from export.data import filter_overlap
from export.teachers import open_teacher, run_teacher


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export overlap", description=__doc__)
    parser.add_argument("pack", type=Path, help="training pack")
    parser.add_argument("tests", nargs="+", type=Path, help="packs of the test identities")
    parser.add_argument("--teacher", type=Path, required=True, help="embedder ONNX that compares")
    parser.add_argument("--limit", type=float, default=0.6, help="cosine of two identities' means")
    args = parser.parse_args(argv)
    teacher = open_teacher(args.teacher, 32)
    gone = filter_overlap(lambda x: run_teacher(teacher, x), args.pack, args.tests, args.limit)
    print(f"overlap: {len(gone)} identities left out of {args.pack}", file=sys.stderr)
    print("\n".join(gone))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
