"""`python -m bench NAME [--quick] [--json [FILE]] …`: one module per question.

Each module has `figures(args) -> dict[str, float | str | None]` with flat dotted keys and may have
`add_arguments(parser)`. With `--json` stdout is one document {"bench", "machine", "commit",
"figures"}; without, a table.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

NAMES = (
    "accuracy",
    "detect",
    "embed",
    "pipeline",
    "score",
    "submodels",
    "clustering",
    "gallery",
    "openset",
    "fusion",
    "video",
    "faults",
)


def machine() -> dict[str, str | int]:
    """What the figures were measured on: processor, cores, versions."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        cpu = names[0] if names else cpu
    versions = {}
    for package in ("numpy", "onnxruntime", "openvino", "torch", "numba", "faiss", "hnswlib"):
        try:
            versions[package] = importlib.metadata.version(
                "faiss-cpu" if package == "faiss" else package
            )
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        **versions,
    }


def commit() -> str:
    """The checkout's commit, with `+` when it has uncommitted changes, or `unknown`."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=here,
            text=True,
            capture_output=True,
            check=True,
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, text=True, capture_output=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


def main(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        print(__doc__, "\nNAME: " + ", ".join(NAMES), sep="\n")
        return 0
    if argv[0] not in NAMES:
        print(f"bench: no bench {argv[0]!r}; one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"bench.{argv[0]}")
    parser = argparse.ArgumentParser(prog=f"python -m bench {argv[0]}", description=module.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small inputs, every figure still produced"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="one JSON document")
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(__file__).parents[2] / "shared",
        help="folder with the test data and peer models",
    )
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    args = parser.parse_args(argv[1:])
    figures = module.figures(args)
    document = {"bench": argv[0], "machine": machine(), "commit": commit(), "figures": figures}
    if args.json and args.json != "-":
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n")
    if args.json == "-":
        print(json.dumps(document, indent=1))
    else:
        width = max((len(k) for k in figures), default=0)
        for key, value in figures.items():
            print(
                f"{key:<{width}}  {value:.4g}"
                if isinstance(value, float)
                else f"{key:<{width}}  {value}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
