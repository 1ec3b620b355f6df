"""`python -m export distil`: train an embedder from a teacher's outputs, without labels.

Two phases, each resumable to the bit. `blocks`: every block of the student learns, from random
initialisation and by gradient descent, to map the teacher's input of that block to the teacher's
output of it (per-channel normalised squared error). `end`: the whole student learns the teachers'
embeddings (cosine and similarity structure), with errors at the stage ends as guidance; with
`--clean` those of the picture before it was degraded. Two cores
make a useful embedder this way in an hour; trained end to end from the start they do not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from export.augment import STRENGTHS
from export.distil_blocks import train_blocks
from export.distil_end import train_end
from export.networks.mobilefacenet import SPECS
from export.teachers import target_file


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export distil", description=__doc__)
    parser.add_argument("phase", choices=["blocks", "end"])
    parser.add_argument("--pack", type=Path, required=True, help="pack made by `export pack`")
    parser.add_argument("--teacher", type=Path, required=True, help="teacher ONNX")
    parser.add_argument("--network", choices=list(SPECS), default="mobilefacenet")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--warm", type=int, default=100, help="steps of linear warm-up")
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strength", choices=list(STRENGTHS), default="moderate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teacher-threads", type=int, default=1)
    parser.add_argument("--report", type=int, default=50, help="steps between log lines")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    parser.add_argument("--resume", action="store_true")
    end = parser.add_argument_group("end phase")
    end.add_argument("--init", type=Path, help="checkpoint to start from")
    end.add_argument("--also", type=Path, nargs="*", default=[], help="further teachers")
    end.add_argument(
        "--clean",
        type=Path,
        nargs="*",
        default=[],
        help="teachers whose cached embeddings of undegraded pictures are the aim, see `targets`",
    )
    end.add_argument("--guides", default="res1_3,res2_5,res3_1", help="blocks to hold to the maps")
    end.add_argument("--guide-weight", type=float, default=0.5)
    end.add_argument("--freeze", type=int, default=0, help="leave the first blocks as they are")
    end.add_argument("--average", type=float, default=0.995, help="decay of the weight average")
    return parser


def main(argv: list[str]) -> int:
    args = arguments().parse_args(argv)
    cached = [target_file(args.pack, path) for path in args.clean]
    for path in (args.teacher, args.pack.with_suffix(".npy"), *args.also, *args.clean, *cached):
        if not path.exists():
            print(f"distil: no file {path}", file=sys.stderr)
            return 2
    return train_blocks(args) if args.phase == "blocks" else train_end(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
