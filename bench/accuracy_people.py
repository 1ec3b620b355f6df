"""What LFW's six thousand pairs hide: people nobody was trained on, all pairs of LFW, small faces,
turned heads, children, and faces that show too little.

`heldout.fiw.*`: the 60 families that `export.data.held_families` keeps from every training, without
those of their people who are in another training set under another name; TAR over all pairs of one
person and of two families. `yaw15_35`: of the genuine pairs with a head turned by 15 to 35 degrees,
by our detector's points, those accepted at the threshold of FAR 1e-3 over all pairs.
`lfw.all.*`: TAR over all pairs of LFW's 13,233 crops. `lfw.px24`, `lfw.px16`: TAR at FAR 1e-3 over
the pairs of View 2, the second picture of each shrunk to so many pixels.
`groups.children.fmr`: pairs of East Asian children of at most ten years who pass for one another at
the threshold of FAR 1e-4 over all pairs of LFW strangers; pairs that edgeface_xs puts over .5 are
left out. `unfit.px12`: pairs of two LFW people, both 12 pixels wide, above the threshold of the
card; of a model without a card, above that of FAR 1e-4 over all pairs of LFW.

Every embedding is kept in the cache by the digest of the file and the runtime that made it.
"""

from __future__ import annotations

import csv
import hashlib
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeface.alignment import TEMPLATE
from edgeface.detect import Detector
from edgeface.metrics import tar_at_far, threshold_at_far
from edgeface.types import Face
from export.data import family_of, held_families
from export.groups import SAME
from export.protocols.cached import cached
from export.protocols.families import People
from export.protocols.identities import Embed
from export.protocols.lfw import lfw_pairs
from export.protocols.pictures import shrink_all, stack
from export.protocols.strangers import Pairs, all_pairs

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Images = NDArray[np.uint8]
YAW = (15.0, 35.0)
OLDEST = 10  # years


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """An embedder to be measured: `stamp` tells its file and runtime from every other, `threshold`
    is its card's, None where it has none."""

    embed: Embed
    stamp: str
    threshold: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """A set of crops: what it is called, the `paths` of its pictures, and how to read them."""

    name: str
    paths: tuple[str, ...]
    read: Callable[[], Images]

    def rows(self, name: str, model: Model, cache: Path | None) -> Floats:
        """(n, d) unit rows of a model called `name`."""
        content = hashlib.sha256("\n".join(self.paths).encode()).hexdigest()[:8]
        file = None if cache is None else cache / f"{self.name}-{content}.{model.stamp}.npy"

        def make() -> Floats:
            print(f"accuracy: {name}, {self.name}", file=sys.stderr, flush=True)
            return model.embed(self.read())

        return cached(file, make)


def zipped(file: Path, names: tuple[str, ...]) -> Images:
    """Crops of a zip."""
    with zipfile.ZipFile(file) as archive:
        raw = (np.frombuffer(archive.read(name), np.uint8) for name in names)
        return np.stack(
            [np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8) for data in raw]
        )


def column(file: Path, name: str) -> list[tuple[str, str]]:
    """The first column of a CSV file beside another one's."""
    with file.open(newline="", encoding="utf-8") as stream:
        return [(next(iter(line.values())), line[name]) for line in csv.DictReader(stream)]


def kin(faces: Path) -> tuple[Crops, Rows, Rows]:
    """The held-out families' crops, the person and the family of each; people of one picture, who
    make no pair, are left out."""
    known = {who for who, _ in column(faces / "fiw_same_as_shared.csv", "shared")}
    lines = column(faces / "fiw_families.csv", "label")
    held = held_families(f"fiw_families/{label}" for _, label in lines)
    lines = [
        (file, label)
        for file, label in lines
        if family_of(f"fiw_families/{label}") in held and label not in known
    ]
    labels, person, count = np.unique(
        [label for _, label in lines], return_inverse=True, return_counts=True
    )
    several = count[person] > 1
    names = tuple(file for (file, _), kept in zip(lines, several, strict=True) if kept)
    families = np.unique([family_of(label) for label in labels], return_inverse=True)[1]
    archive = faces / "fiw_families.zip"
    crops = Crops("fiw", names, lambda: zipped(archive, names))
    return crops, person[several], families[person][several]


def children(faces: Path) -> Crops:
    """East Asian children of at most `OLDEST` years."""
    ages = column(faces / "aaf_asian_all_ages.csv", "age")
    names = tuple(file for file, age in ages if int(age) <= OLDEST)
    archive = faces / "aaf_asian_all_ages.zip"
    return Crops("children", names, lambda: zipped(archive, names))


def lfw(root: Path) -> tuple[Crops, Rows]:
    """All of LFW's crops, and the person of each."""
    files = sorted((root / "aligned112").glob("*/*.webp"))
    names = tuple(f"{file.parent.name}/{file.stem}" for file in files)
    person = np.unique([file.parent.name for file in files], return_inverse=True)[1]
    return Crops("lfw", names, lambda: stack(files)), person


def some(crops: Crops, rows: Rows, name: str, size: int, root: Path) -> Crops:
    """Some of LFW's crops, `size` pixels wide."""
    names = tuple(crops.paths[row] for row in rows)

    def read() -> Images:
        return shrink_all(stack(root / "aligned112" / f"{n}.webp" for n in names), size)

    return Crops(name, names, read)


def yaws(images: Images) -> NDArray[np.float64]:
    """(n,) degrees by which heads of aligned crops are turned, nan where our detector sees none."""
    detector = Detector.load()
    side = images.shape[1] // 2
    corners = np.array([4, 2, 108, 114], np.float32) + side
    face = Face(corners, np.asarray(TEMPLATE + side, np.float32), 1.0)
    found = []
    for image in images:
        wide = cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REPLICATE)
        seen = detector.refine(np.asarray(wide, np.uint8), face)
        turned = seen.score > 0 and seen.pose is not None
        found.append(seen.pose.yaw if turned and seen.pose is not None else np.nan)
    return np.array(found)


def turned_tar(people: People, rows: Floats, yaw: NDArray[np.float64]) -> float:
    """Of the genuine pairs with a head turned by `YAW`, the share accepted at FAR 1e-3 over all."""
    a, b, same = people.pairs()
    cosine = (rows @ rows.T)[a, b]
    turned = (np.abs(yaw) >= YAW[0]) & (np.abs(yaw) <= YAW[1])
    accepted = cosine >= threshold_at_far(cosine[~same], 1e-3)
    return float(accepted[same & (turned[a] | turned[b])].mean())


def passing(rows: Floats, apart: NDArray[np.bool_], threshold: float) -> float:
    """Share of the pairs `apart` (n, n) whose cosine reaches a threshold."""
    upper = np.triu(apart, 1)
    return float(((rows @ rows.T) >= threshold)[upper].mean())


def heldout(
    shared: Path, models: Mapping[str, Model], cache: Path | None
) -> dict[str, float | str | None]:
    """The keys `heldout.*`."""
    crops, person, family = kin(shared / "data" / "faces")
    images = crops.read()
    people, yaw = People(images, person, family), yaws(images)
    out: dict[str, float | str | None] = {
        "heldout.fiw.pictures": float(len(person)),
        "heldout.fiw.people": float(len(np.unique(person))),
        "heldout.fiw.families": float(len(np.unique(family))),
    }
    for name, model in models.items():
        rows = crops.rows(name, model, cache)
        found = people.tar(rows, rows) | {"yaw15_35": turned_tar(people, rows, yaw)}
        out |= {f"heldout.fiw.{key}.{name}": value for key, value in found.items()}
    return out


def tested(
    shared: Path, models: Mapping[str, Model], teacher: Model, cache: Path | None
) -> dict[str, float | str | None]:
    """The keys `lfw.*`, `groups.*` and `unfit.*`: read once, at the end of a training."""
    root = shared / "data" / "lfw"
    crops, person = lfw(root)
    place = {name: i for i, name in enumerate(crops.paths)}
    pairs = lfw_pairs(root / "pairs.txt")
    first = np.array([place[a] for a, *_ in pairs])
    second = np.array([place[b] for _, b, *_ in pairs])
    same = np.array([truth for *_, truth, _ in pairs])
    probes, probe = np.unique(second, return_inverse=True)
    one_each = np.unique(person, return_index=True)[1]
    young = children(shared / "data" / "faces")
    opinion = young.rows("edgeface_xs", teacher, cache)
    apart = opinion @ opinion.T < SAME
    out: dict[str, float | str | None] = {"groups.children.pictures": float(len(young.paths))}
    for name, model in models.items():
        rows = crops.rows(name, model, cache)
        everybody: Pairs = all_pairs(rows, person)
        found = {f"lfw.all.tar1e-{e}": everybody.tar(10.0**-e) for e in (5, 6)}
        for size in (24, 16):
            small = some(crops, probes, f"lfw-px{size}", size, root).rows(name, model, cache)
            cosine = (rows[first] * small[probe]).sum(1)
            found[f"lfw.px{size}"] = tar_at_far(cosine, same, 1e-3)
        strangers = everybody.threshold(1e-4)
        found["groups.children.fmr"] = passing(young.rows(name, model, cache), apart, strangers)
        tiny = some(crops, one_each, "lfw-px12", 12, root).rows(name, model, cache)
        limit = strangers if model.threshold is None else model.threshold
        found["unfit.px12"] = passing(tiny, np.ones((len(tiny), len(tiny)), bool), limit)
        found["unfit.threshold"] = limit
        out |= {f"{key}.{name}": value for key, value in found.items()}
    return out
