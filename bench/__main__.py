"""`python -m bench [NAME…|--all] [--quick] [--json [OUT]]`: one module per question; alone it lists
them.

A bench is a module of this folder with `figures(args) -> dict[str, float | str | None]`, flat
dotted keys; it may have `add_arguments(parser)`. One NAME runs here and takes options of its own
(`python -m bench NAME --help`); several, all with `--all`, or a short run of all with `--quick`
alone, run in processes of their own, one after the other, quick ones side by side. `--json` prints
one document {"bench", "command", "machine", "commit", "date", "figures"}, or writes it to the file
OUT; with a folder OUT it becomes OUT/NAME.json. bench/reports takes documents of clean commits
only, so that what is published can be measured again. Without `--json` a table is printed. A figure
that was not produced is null, and stderr says why; a bench that fails, or gives a figure that is no
finite number, makes the exit code 1.

`--headline MACHINE` measures what the README's table shows, on another machine, and gives it a
column of that name: its documents go to bench/reports/MACHINE (or to `--json OUT`).

`python -m bench report` turns the documents in bench/reports into pages, pictures and the tables of
the README.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeface.errors import ArgumentError, EdgefaceError

HERE = Path(__file__).parent
REPORTS = HERE / "reports"
NAMES = tuple(
    sorted(
        file.stem
        for file in HERE.glob("*.py")
        if "\ndef figures(args: argparse.Namespace)" in file.read_text(encoding="utf-8")
    )
)
# Of processor time, that a quick run of the longer benches takes on one core of an EPYC.
QUICK_SECONDS = {
    "adopt": 80, "service": 40, "size": 29, "openset": 27, "detect": 27, "clustering": 25,
    "pipeline": 25, "submodels": 20, "fusion": 18, "accuracy": 18, "embed": 17,
}  # fmt: skip
PACKAGES = (
    "numpy",
    "onnxruntime",
    "openvino",
    "opencv-python-headless",
    "torch",
    "numba",
    "faiss-cpu",
    "usearch",
    "hnswlib",
    "scikit-learn",
)


def machine() -> dict[str, str | int]:
    """What the figures were measured on: processor, instruction sets, cores, memory, versions."""
    from edgeface.doctor import cpu_flags

    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "instructions": " ".join(cpu_flags()),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def commit() -> str:
    """The checkout's commit, with `+` when files that it tracks were changed, or `unknown`."""

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", *command], cwd=HERE, text=True, capture_output=True, check=True
        )
        return done.stdout.strip()

    try:
        # What reports are made of does not change what is measured.
        changed = git("status", "--porcelain", "-uno", "--", ":/", ":!reports", ":!/README.md")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def today() -> str:
    """The date, UTC, as 2026-11-25."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def refusal(targets: Sequence[object], at: str) -> str | None:
    """Why documents of commit `at` may not go to `targets`, or None when they may."""
    paths = [Path(str(t)).resolve() for t in targets if t is not None]
    if at != "unknown" and not at.endswith("+"):
        return None
    if not any(p == REPORTS or REPORTS in p.parents for p in paths):
        return None
    state = "is unknown" if at == "unknown" else f"is {at}: files that git tracks have changes"
    return (
        f"bench: the commit {state}; bench/reports takes figures of clean commits only. Commit "
        "first, or give --json another place"
    )


def command(arguments: Sequence[str]) -> str:
    """The command line of a run without the folders of this machine."""
    told = [Path(a).name if Path(a).is_absolute() else a for a in arguments]
    return " ".join(["python -m bench", *told])


def wrong(figures: Mapping[str, object]) -> list[str]:
    """The keys that are no figure: neither a finite number, nor a text, nor null."""
    return [
        key
        for key, value in figures.items()
        if not (value is None or isinstance(value, str))
        and not (isinstance(value, int | float) and math.isfinite(value))
    ]


def show(figures: Mapping[str, object]) -> None:
    """Print a table."""
    width = max((len(k) for k in figures), default=0)
    for key, value in figures.items():
        text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
        print(f"{key:<{width}}  {text}")


def one(name: str, rest: Sequence[str]) -> int:
    """Run one bench here."""
    module = importlib.import_module(f"bench.{name}")
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=module.__doc__)
    common(parser)
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    args = parser.parse_args(rest)
    at = commit()
    to = None if args.json == "-" else args.json
    refused = refusal([to, getattr(args, "update", None)], at)
    if refused:
        print(refused, file=sys.stderr)
        return 2
    try:
        figures = module.figures(args)
    except EdgefaceError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError) else 1
    document = {
        "bench": name,
        "command": command([name, *rest]),
        "machine": machine(),
        "commit": at,
        "date": today(),
        "figures": figures,
    }
    text = json.dumps(document, indent=1)
    if args.json == "-":
        print(text)
    else:
        show(figures)
        if args.json is not None:
            out = Path(args.json)
            (out / f"{name}.json" if out.is_dir() else out).write_text(text + "\n")
    bad = wrong(figures)
    if bad or not figures:
        print(f"bench: {name} gave no number for {', '.join(bad) or 'anything'}", file=sys.stderr)
        return 1
    return 0


def headline(args: argparse.Namespace) -> int:
    """Measure on this machine what the README's table shows, and write it there."""
    from bench import report

    if not re.fullmatch(r"\w[\w. -]*", args.headline):
        print("bench: name the machine in letters and digits, as a folder", file=sys.stderr)
        return 2
    inside = args.json in {None, "-"}
    folder = REPORTS / args.headline if inside else Path(args.json)
    args.json = str(folder)
    code = several(list(report.HEADLINE), args, report.HEADLINE)
    return code or (report.main([]) if inside else 0)


def several(
    names: Sequence[str],
    args: argparse.Namespace,
    own: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Run benches, each in a process of its own: they set threads and cores. `own` are options of
    some of them."""
    options = ["--shared", str(args.shared), *(["--quick"] if args.quick else [])]
    if args.json is not None:
        folder = REPORTS if args.json == "-" else Path(args.json)
        refused = refusal([folder], commit())
        if refused:
            print(refused, file=sys.stderr)
            return 2
        folder.mkdir(parents=True, exist_ok=True)
        options += ["--json", str(folder)]
    commands = {
        name: [sys.executable, "-m", "bench", name, *options, *(own or {}).get(name, ())]
        for name in names
    }
    run = _side_by_side if args.quick else _in_turn
    failed = [name for name, code in run(commands) if code]
    if failed:
        print(f"bench: {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


def _in_turn(commands: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int]]:
    """Exit codes of commands run one after the other: each has the machine for itself."""
    for name, line in commands.items():
        print(f"== {name}", flush=True)
        yield name, subprocess.run(line, check=False).returncode


def _side_by_side(commands: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int]]:
    """The same with a command per core, for quick runs: whether every figure is given does not
    depend on how fast. What a command prints comes when it has ended."""

    def one(line: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, check=False, capture_output=True, text=True)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        # The longest begin first, so that none of them is left over when the others have ended.
        order = sorted(commands, key=lambda name: -QUICK_SECONDS.get(name, 0))
        running = {name: pool.submit(one, commands[name]) for name in order}
        for name in commands:
            done = running[name].result()
            print(f"== {name}\n{done.stdout}", end="", flush=True)
            print(done.stderr, end="", file=sys.stderr, flush=True)
            yield name, done.returncode


def catalogue() -> str:
    """Every bench with the first sentence of what it says of itself."""
    lines = [__doc__.split("\n\n", 1)[0], ""]
    for name in NAMES:
        text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))) or ""
        first = re.split(r"(?<=[.:?])\s", " ".join(text.split()), maxsplit=1)[0]
        lines.append(f"  {name:<12}{first.rstrip(':')}")
    lines += ["", f"  {'report':<12}Pages, pictures and the README's table from bench/reports."]
    return "\n".join(lines)


def common(parser: argparse.ArgumentParser) -> None:
    """The options every bench has."""
    parser.add_argument(
        "--quick", action="store_true", help="small inputs, every figure still produced"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="OUT", help="one JSON document")
    parser.add_argument(
        "--shared",
        type=Path,
        default=HERE.parents[1] / "shared",
        help="folder with the test data and peer models",
    )


def main(argv: Sequence[str]) -> int:
    """Run what the command line names."""
    if argv and argv[0] == "report":
        from bench import report

        return report.main(argv[1:])
    if argv and argv[0] in NAMES and not (len(argv) > 1 and argv[1] in NAMES):
        return one(argv[0], argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = f"report, or one or more of: {', '.join(NAMES)}"
    parser.add_argument("name", nargs="*", metavar="NAME", help=names)
    parser.add_argument("--all", action="store_true", help="every bench; they take hours")
    parser.add_argument(
        "--headline", metavar="MACHINE", help="the README's figures on another machine of that name"
    )
    common(parser)
    args = parser.parse_args(argv)
    if args.headline is not None:
        return headline(args)
    if not (args.name or args.all or args.quick):
        if argv:
            parser.error("name a bench, or give --all or --quick for every one")
        print(catalogue())
        return 0
    unknown = [name for name in args.name if name not in NAMES]
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}; one of {', '.join(NAMES)}")
    return several(args.name or NAMES, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
