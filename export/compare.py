"""`python -m export compare NAME=FILE…`: a table of embedders, their sizes, LFW and clustering,
from documents that `bench accuracy --embedder NAME=FILE --json …` wrote, hours apart if need be."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from export import report
from export.protocols.embedders import keyed, size_mb

COLUMNS = {
    "LFW %": ("", "lfw"),
    "±": ("", "lfw_std"),
    "TAR@FAR=1e-3 %": ("", "tar_at_far1e-3"),
    "LFW-311 NMI": ("lfw311", "nmi"),
    "ARI": ("lfw311", "ari"),
    "pairwise F": ("lfw311", "pairwise_f"),
    "105-test NMI": ("test105", "nmi"),
    "ARI ": ("test105", "ari"),
    "pairwise F ": ("test105", "pairwise_f"),
}


def rows(files: dict[str, Path], figures: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every embedder; None for what no document holds."""
    table = []
    for name, file in files.items():
        row: dict[str, Any] = {"embedder": name, "size MB": round(size_mb(file), 3)}
        for column, (data, figure) in COLUMNS.items():
            (key,) = keyed(data, name, {figure: 0.0})
            row[column] = figures.get(key)
        table.append(row)
    return table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export compare", description=__doc__)
    parser.add_argument("embedders", nargs="+", metavar="NAME=FILE", help="rows, in this order")
    parser.add_argument("--from", dest="documents", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True, help="page .md, with a .json beside it")
    parser.add_argument("--title", default="Embedders beside each other")
    args = parser.parse_args(argv)
    files = {name: Path(file) for name, _, file in (e.partition("=") for e in args.embedders)}
    for path in (*args.documents, *files.values()):
        if not path.is_file():
            print(f"compare: no file {path}", file=sys.stderr)
            return 2
    found = [json.loads(path.read_text(encoding="utf-8")) for path in args.documents]
    table = rows(files, {k: v for document in found for k, v in document["figures"].items()})
    empty = [row["embedder"] for row in table if row["LFW %"] is None]
    if empty:
        print(f"compare: no document holds figures of {', '.join(empty)}", file=sys.stderr)
        return 1
    commits = ", ".join(dict.fromkeys(document["commit"] for document in found))
    machine = found[0]["machine"]
    lines = [
        f"# {args.title}",
        "",
        f"`bench accuracy`, commit {commits}, {machine['cpu']}, by OpenVINO in float32; files of "
        "INT8 keep their integers.",
        "",
        *report.lines_of(list(table[0]), table),
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = {"bench": args.out.stem, "machine": machine, "commit": commits, "figures": {}}
    text = json.dumps(document | {"table": table}, indent=1, ensure_ascii=False)
    args.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
