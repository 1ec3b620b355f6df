"""`python -m export pack`: aligned crops from folders into one memory-mapped array.

A pack is three files that belong together: `PACK.npy`, uint8 (N, 112, 112, 3) BGR, read without
decoding; `PACK.tsv`, one `identity<TAB>path` line per row, identity empty where none is known;
`PACK.keep.npy`, bool (N,), written by `filter_overlap`: False for rows whose identity resembles
someone of a test set. A folder whose pictures lie in sub-folders has one identity per sub-folder,
a flat folder has no identities.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 112
SUFFIXES = {".webp", ".png", ".jpg", ".jpeg"}


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """`images` (N, 112, 112, 3) uint8 BGR, memory-mapped; `identity` (N,) int64, -1 = unknown;
    `names` the identity of each number; `paths` where each row came from."""

    images: NDArray[np.uint8]
    identity: NDArray[np.int64]
    names: tuple[str, ...]
    paths: tuple[str, ...]
    keep: NDArray[np.bool_]


def normalised(name: str) -> str:
    """A person's name as compared across data sets: lower case, blanks for `_`, `-` and dots."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").replace(".", " ").split())


def list_crops(folder: Path, drop: set[str]) -> list[tuple[str, Path]]:
    """(identity, path) of every picture under `folder`, sorted, without those named in `drop`."""
    rows: list[tuple[str, Path]] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        person = "" if path.parent == folder else path.parent.name
        if normalised(person) in drop:
            continue
        rows.append((f"{folder.name}/{person}" if person else "", path))
    return rows


def pack(rows: list[tuple[str, Path]], target: Path) -> int:
    """Decode `rows` into `target`.npy and .tsv; returns how many. Unreadable pictures are named on
    stderr and left out; pictures of another size are resized to 112×112."""
    target.parent.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(
        target.with_suffix(".part.npy"), "w+", np.uint8, (len(rows), SIZE, SIZE, 3)
    )
    lines = []
    for identity, path in rows:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            print(f"pack: cannot decode {path}, left out", file=sys.stderr)
            continue
        if picture.shape[:2] != (SIZE, SIZE):
            picture = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        images[len(lines)] = picture
        lines.append(f"{identity}\t{path.parent.name}/{path.name}\n")
        if len(lines) % 2000 == 0:
            print(f"\rpack: {len(lines)}/{len(rows)}", end="", file=sys.stderr, flush=True)
    images.flush()
    if len(lines) < len(rows):
        whole = np.lib.format.open_memmap(
            target.with_suffix(".npy"), "w+", np.uint8, (len(lines), SIZE, SIZE, 3)
        )
        whole[:] = images[: len(lines)]
        whole.flush()
        target.with_suffix(".part.npy").unlink()
    else:
        target.with_suffix(".part.npy").replace(target.with_suffix(".npy"))
    target.with_suffix(".tsv").write_text("".join(lines))
    print(f"\rpack: {len(lines)} crops in {target.with_suffix('.npy')}", file=sys.stderr)
    return len(lines)


def open_pack(target: Path) -> Pack:
    """Open a pack written by `pack`; nothing is read but the list of names."""
    images = np.load(target.with_suffix(".npy"), mmap_mode="r")
    table = [line.split("\t") for line in target.with_suffix(".tsv").read_text().splitlines()]
    if len(table) != len(images):
        raise ValueError(
            f"{target}: {len(images)} images but {len(table)} lines; pack the crops again"
        )
    names = sorted({row[0] for row in table if row[0]})
    number = {name: i for i, name in enumerate(names)}
    identity = np.array([number.get(row[0], -1) for row in table], np.int64)
    keep_file = target.with_suffix(".keep.npy")
    keep = np.load(keep_file) if keep_file.exists() else np.ones(len(table), bool)
    return Pack(images, identity, tuple(names), tuple(row[1] for row in table), keep)


def mean_embeddings(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]], data: Pack, batch: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit embeddings (N, d) of every row and unit mean (P, d) of every identity; `embed` maps
    (n, 112, 112, 3) uint8 BGR to (n, d)."""
    rows = [embed(data.images[i : i + batch]) for i in range(0, len(data.images), batch)]
    each = np.concatenate(rows)
    each = each / np.linalg.norm(each, axis=1, keepdims=True)
    mean = np.zeros((len(data.names), each.shape[1]), np.float32)
    known = data.identity >= 0
    np.add.at(mean, data.identity[known], each[known])
    return each, mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def filter_overlap(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    target: Path,
    tests: list[Path],
    limit: float = 0.6,
) -> list[str]:
    """Write `target`.keep.npy without the identities whose mean embedding has a cosine above
    `limit` with the mean of any identity of the packs `tests`; returns the names dropped."""
    data = open_pack(target)
    _, mean = mean_embeddings(embed, data)
    others = np.concatenate([mean_embeddings(embed, open_pack(t))[1] for t in tests])
    nearest = (mean @ others.T).max(1)
    drop = nearest > limit
    keep = np.ones(len(data.identity), bool)
    known = data.identity >= 0
    keep[known] = ~drop[data.identity[known]]
    np.save(target.with_suffix(".keep.npy"), keep)
    return [name for name, gone in zip(data.names, drop, strict=True) if gone]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export pack", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of aligned 112×112 crops")
    parser.add_argument("--out", type=Path, required=True, metavar="PACK", help="target, no suffix")
    parser.add_argument(
        "--drop-names", type=Path, metavar="FILE", help="identities to leave out, one a line"
    )
    args = parser.parse_args(argv)
    drop = set()
    if args.drop_names:
        drop = {normalised(line) for line in args.drop_names.read_text().splitlines() if line}
    rows: list[tuple[str, Path]] = []
    for folder in args.folders:
        if not folder.is_dir():
            print(f"pack: {folder} is not a folder", file=sys.stderr)
            return 2
        rows += list_crops(folder, drop)
    if not rows:
        print(f"pack: no pictures ({', '.join(sorted(SUFFIXES))}) found", file=sys.stderr)
        return 1
    return 0 if pack(rows, args.out) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
