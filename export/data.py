"""`python -m export pack`: aligned crops from folders into one memory-mapped array.

A pack is three files that belong together: `PACK.npy`, uint8 (N, 112, 112, 3) BGR, read without
decoding; `PACK.tsv`, one `identity<TAB>path` line per row, identity empty where none is known;
`PACK.keep.npy`, bool (N,), written by `filter_overlap`: False for rows whose identity resembles
someone of a test set. A folder whose pictures lie in sub-folders has one identity per sub-folder,
a flat folder has no identities. A zip counts as a folder of its name.
"""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.errors import EdgefaceError

SIZE = 112
HELD_FAMILIES = 60
FAMILY_SEED = 60
SUFFIXES = {".webp", ".png", ".jpg", ".jpeg"}
# Identities of one family in a set of families: fiw_families/F0001_MID1, …_MID2.
FAMILY = re.compile(r"(.*F\d+)_MID\d+$")


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """`images` (N, 112, 112, 3) uint8 BGR, memory-mapped; `identity` (N,) int64, -1 = unknown;
    `names` the identity of each number; `paths` where each row came from."""

    images: NDArray[np.uint8]
    identity: NDArray[np.int64]
    names: tuple[str, ...]
    paths: tuple[str, ...]
    keep: NDArray[np.bool_]

    def families(self) -> NDArray[np.int64]:
        """(N,) the family of every row as the number of one of its identities; an identity of no
        family is one of its own, -1 where nobody is known."""
        first: dict[str, int] = {}
        of = [first.setdefault(family_of(name) or name, i) for i, name in enumerate(self.names)]
        return np.array([*of, -1], np.int64)[self.identity]


def family_of(name: str) -> str:
    """The family an identity belongs to, "" where its name says none."""
    match = FAMILY.match(name)
    return match.group(1) if match else ""


def normalised(name: str) -> str:
    """A person's name as compared across data sets: lower case, blanks for `_`, `-` and dots."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").replace(".", " ").split())


@dataclass(frozen=True, slots=True)
class Crop:
    """One picture to pack: `identity` ("" where none is known) and where it is, `path` below
    `source`, a folder or a zip."""

    identity: str
    source: Path
    path: str

    @property
    def name(self) -> str:
        """What the pack's table calls it."""
        return f"{self.source.stem}/{self.path}"

    def decode(self, archive: zipfile.ZipFile | None) -> NDArray[np.uint8] | None:
        """(h, w, 3) uint8 BGR; None when it is no picture."""
        raw = (self.source / self.path).read_bytes() if archive is None else archive.read(self.path)
        picture = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR) if raw else None
        return None if picture is None else np.asarray(picture, np.uint8)


def list_crops(folder: Path, drop: set[str]) -> list[Crop]:
    """Every picture under `folder`, a folder or a zip, sorted, without identities in `drop`."""
    if folder.suffix == ".zip":
        with zipfile.ZipFile(folder) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
    else:
        names = [PurePosixPath(p.relative_to(folder).as_posix()) for p in folder.rglob("*")]
    rows: list[Crop] = []
    for path in sorted(p for p in names if p.suffix.lower() in SUFFIXES):
        person = path.parent.name
        if normalised(person) in drop:
            continue
        rows.append(Crop(f"{folder.stem}/{person}" if person else "", folder, str(path)))
    return rows


def pack(rows: list[Crop], target: Path, *, resize: bool = False) -> int:
    """Decode `rows` into `target`.npy and .tsv; returns how many. Unreadable pictures are named on
    stderr and left out.

    EdgefaceError for a picture of another size than 112×112, which is no aligned crop; with
    `resize` it is taken for one and shrunk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(
        target.with_suffix(".part.npy"), "w+", np.uint8, (len(rows), SIZE, SIZE, 3)
    )
    archives = {s: zipfile.ZipFile(s) for s in {r.source for r in rows} if s.suffix == ".zip"}
    lines, resized = [], 0
    for row in rows:
        picture = row.decode(archives.get(row.source))
        if picture is None:
            print(f"pack: cannot decode {row.name}, left out", file=sys.stderr)
            continue
        if picture.shape[:2] != (SIZE, SIZE):
            if not resize:
                target.with_suffix(".part.npy").unlink()
                height, width = picture.shape[:2]
                raise EdgefaceError(
                    f"{row.name} is {width}×{height}, an aligned crop of {SIZE}×{SIZE} is needed: "
                    "run `python -m export align` on the folder; or, where its pictures are crops "
                    "aligned to that template at another size, `python -m export pack --resize`"
                )
            resized += 1
            picture = cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        images[len(lines)] = picture
        lines.append(f"{row.identity}\t{row.name}\n")
        if len(lines) % 2000 == 0:
            print(f"\rpack: {len(lines)}/{len(rows)}", end="", file=sys.stderr, flush=True)
    for archive in archives.values():
        archive.close()
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
    if resized:
        print(f"\rpack: {resized} pictures were resized to {SIZE}×{SIZE}", file=sys.stderr)
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


def held_families(names: Iterable[str]) -> set[str]:
    """The families kept from every training: 60 of those that identities' names tell of (a fifth
    where there are fewer than 300), drawn by a fixed seed."""
    groups = sorted({family_of(name) for name in names} - {""})
    drawn = np.random.default_rng(FAMILY_SEED).permutation(len(groups))
    return {groups[i] for i in drawn[: min(HELD_FAMILIES, max(1, len(groups) // 5))]}


def hold_out(data: Pack) -> NDArray[np.bool_]:
    """Rows kept from every training: each 25th identity whole (a tenth of them where there are
    fewer than 1,000, a fifth of fewer than 100, two at the least), as many of the pictures without
    identity, and of a set of families `held_families`."""
    people = int(data.identity.max(initial=-1)) + 1
    every = 25 if people == 0 or people >= 1000 else 10 if people >= 100 else 5
    every = max(2, min(every, people // 2)) if people else every
    unknown = data.identity < 0
    held = np.where(unknown, np.arange(len(unknown)) % every == 0, data.identity % every == 0)
    kept = held_families(data.names)
    for number, name in enumerate(data.names):
        if family := family_of(name):
            held[data.identity == number] = family in kept
    return held


def mean_embeddings(each: NDArray[np.floating], data: Pack) -> NDArray[np.float32]:
    """Unit mean (P, d) of every identity of the embeddings `each` (N, d) of a pack's rows."""
    rows = each / np.linalg.norm(each, axis=1, keepdims=True)
    mean = np.zeros((len(data.names), rows.shape[1]), np.float32)
    known = data.identity >= 0
    np.add.at(mean, data.identity[known], rows[known])
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def filter_overlap(
    embeddings: Callable[[Path], NDArray[np.floating]],
    target: Path,
    tests: list[Path],
    limit: float = 0.6,
) -> list[str]:
    """Write `target`.keep.npy without the identities whose mean embedding has a cosine above
    `limit` with the mean of any identity of the packs `tests`; returns the names dropped.
    `embeddings` gives the (N, d) rows of a pack."""
    data = open_pack(target)
    mean = mean_embeddings(embeddings(target), data)
    others = np.concatenate([mean_embeddings(embeddings(t), open_pack(t)) for t in tests])
    nearest = (mean @ others.T).max(1)
    drop = nearest > limit
    keep = np.ones(len(data.identity), bool)
    known = data.identity >= 0
    keep[known] = ~drop[data.identity[known]]
    np.save(target.with_suffix(".keep.npy"), keep)
    return [name for name, gone in zip(data.names, drop, strict=True) if gone]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m export pack", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, help="folders or zips of aligned 112×112 crops"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PACK", help="target, no suffix")
    parser.add_argument(
        "--drop-names", type=Path, metavar="FILE", help="identities to leave out, one a line"
    )
    parser.add_argument("--resize", action="store_true", help="take crops of other sizes as well")
    args = parser.parse_args(argv)
    drop = set()
    if args.drop_names:
        drop = {normalised(line) for line in args.drop_names.read_text().splitlines() if line}
    rows: list[Crop] = []
    for folder in args.folders:
        if not (folder.is_dir() or zipfile.is_zipfile(folder)):
            print(f"pack: {folder} is neither a folder nor a zip", file=sys.stderr)
            return 2
        rows += list_crops(folder, drop)
    if not rows:
        print(f"pack: no pictures ({', '.join(sorted(SUFFIXES))}) found", file=sys.stderr)
        return 1
    return 0 if pack(rows, args.out, resize=args.resize) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
