"""A folder as people have them: named portraits among crowds, masks, legs and skies.

Three hundred pictures of the test data folder. Of LFW's originals and of pins the largest face is
the named person; every other face of the folder is taken for a person of their own. One man took
many pictures of himself for the mask scenes (SELFIES, told by eye); he is one person.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.metrics.clustering import bcubed
from edgeface.piles import Sorted, cluster_folder

T = TypeVar("T")
SELFIES = {
    "1fbf00aadf53a181",
    "27548f9074fde2f9",
    "2e0c9ed36750cdfe",
    "48d8ca7b712a139c",
    "5265c34ccdfd397e",
    "6f98e72f6daf6948",
    "ffdca7c9604a9a0d",
}
# How many pictures, of which people where a number of people is given, from which folder.
LFW_PEOPLE, LFW_EACH = 40, 4
PINS_PEOPLE, PINS_EACH = 12, 5
SCENES = {
    "mask_scenes_853": 50,
    "mask_chandrikadeb7": 15,
    "mask_techyhoney": 10,
    "issap_nasa": 15,
    "team_18f": 5,
    "rladies": 5,
    "humans72k_logicdev": 10,
    "background": 12,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the folder: its `file`, and who its largest face is, None where nobody knows."""

    file: Path
    person: str | None


def pictures(shared: Path, seed: int = 0) -> list[Picture]:
    """The three hundred, the same in every run; another `seed` draws others."""
    rng = np.random.default_rng(seed)
    found = [
        *_named(shared / "data" / "lfw" / "originals", LFW_PEOPLE, LFW_EACH, rng),
        *_named(shared / "data" / "pins" / "test", PINS_PEOPLE, PINS_EACH, rng),
    ]
    for name, count in SCENES.items():
        files = sorted((shared / "data" / "scenes" / name).iterdir())
        for file in _drawn(files, count, rng):
            found.append(Picture(file, "selfies" if file.stem in SELFIES else None))
    return found


def _named(folder: Path, people: int, each: int, rng: np.random.Generator) -> Iterator[Picture]:
    """Of people who have two pictures and more, `people` times `each` pictures at most."""
    groups = [(p.name, sorted(p.iterdir())) for p in sorted(folder.iterdir()) if p.is_dir()]
    several = [(name, files) for name, files in groups if len(files) > 1]
    for name, files in _drawn(several, people, rng):
        for file in _drawn(files, each, rng):
            yield Picture(file, f"{folder.parent.name}/{name}")


def _drawn(items: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    return [items[i] for i in sorted(rng.permutation(len(items))[:count].tolist())]


def laid_out(wanted: Sequence[Picture], folder: Path) -> dict[str, str]:
    """Links to the pictures in one `folder`, and the person of every file's name that has one."""
    folder.mkdir(parents=True, exist_ok=True)
    people: dict[str, str] = {}
    for number, picture in enumerate(wanted):
        name = f"{number:03d}{picture.file.suffix}"
        (folder / name).symlink_to(picture.file.resolve())
        if picture.person is not None:
            people[name] = picture.person
    return people


def figures(shared: Path, *, every: int = 1) -> dict[str, float | str | None]:
    """What `cluster_folder` makes of the folder, or of each n-th of its pictures: in how many
    identities the worst of its people mixes, how many faces it folds away, how many of the named
    pictures it keeps, and BCubed F on those."""
    detector, embedder = Detector.load(), Embedder.load()
    with tempfile.TemporaryDirectory() as temporary:
        people = laid_out(pictures(shared)[::every], Path(temporary) / "photos")
        result = cluster_folder(
            Path(temporary) / "photos",
            Path(temporary) / "out",
            detector=detector.search,
            embedder=embedder,
            model=embedder.card.digest,
        )
    return scores(result, people)


def scores(result: Sorted, people: dict[str, str]) -> dict[str, float | str | None]:
    """The figures of a `result` with the person of every file that has one."""
    largest: dict[Path, float] = {}
    for row in result.rows:
        largest[row.file] = max(largest.get(row.file, 0.0), _area(row.box))
    who: list[str] = []
    named = []
    for row in result.rows:
        main = _area(row.box) == largest[row.file] and row.file.name in people
        who.append(people[row.file.name] if main else row.name)
        named.append(main)
    found = np.array([row.person for row in result.rows])
    identities = {p: {w for w, f in zip(who, found, strict=True) if f == p} for p in set(found)}
    identities.pop(-1, None)
    of_named = np.flatnonzero(named)
    truth = np.unique([who[i] for i in of_named], return_inverse=True)[1]
    return {
        "clustering.messy.faces": float(len(found)),
        "clustering.messy.unfit": float(result.unfit),
        "clustering.messy.largest_unrelated": float(max(map(len, identities.values()))),
        "clustering.messy.named": float(len(of_named)),
        "clustering.messy.named_unfit": float((found[of_named] < 0).sum()),
        "clustering.messy.named_bcubed_f": bcubed(truth, found[of_named]).f,
    }


def _area(box: NDArray[np.float32] | None) -> float:
    return 0.0 if box is None else float(np.prod(box[2:] - box[:2]))
