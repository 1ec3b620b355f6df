"""`python -m export ship CHECKPOINT --name NAME`: everything that is made anew with an embedder.

The float file, INT8 for both runtimes, the comparison with what ships now, the gate of parity, both
cards with their groups, both impostor models and measures of recognisability, the fusion of a
track's faces, and last their place among the shipped weights. For the default embedder also the
edge model of clustering. All is made in a folder `--work`; a step that is done is not done again,
so a run that was stopped goes on where it was; another checkpoint or other options begin anew.
Nothing shipped changes before every gate is passed. A file that tells held-out people apart worse
than what it would replace is refused: TAR at FAR 1e-4 on families, or on people where the pack has
no families, that no training sees.

Afterwards, in a commit of its own: `python -m export report`, which also brings LFW's figures into
the cards, and the benches of bench/reports, which take figures of clean commits only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from edgeface.embed import DEFAULT
from edgeface.errors import EdgefaceError
from edgeface.models import WEIGHTS, digest
from export.card import fastest
from export.data import open_pack
from export.heldout import SMALL, watch_of
from export.placing import install
from export.protocols.embedders import open_embedder
from export.protocols.families import People
from export.protocols.pictures import shrink_all

MOST = 1000  # held-out pictures that files are compared on
PRECISIONS = {
    "": "fp32 arithmetic, fp16 weights",
    "-int8": "int8 weights per channel, uint8 maps",
}
LEAVABLE = ("recognisability", "fusion", "similarity")
Step = tuple[str, Callable[[], None]]


def tars(name: str, people: People, model: Path) -> dict[str, float]:
    """TAR of a file on the held-out people called `name`, by size of the probe and FAR."""
    embed, found = open_embedder(model), dict[str, float]()
    clean = embed(people.images)
    for size in (None, *SMALL):
        probes = clean if size is None else embed(shrink_all(people.images, size))
        key = name if size is None else f"{name}.px{size}"
        found |= {f"{key}.{k}": round(v, 4) for k, v in people.tar(clean, probes).items()}
    return found


def compare(work: Path, shipped: Path, names: Sequence[str], pack: Path) -> dict[str, float]:
    """How much more of the held-out people the new files find than those shipped.

    Raises:
        EdgefaceError: one finds fewer.
    """
    watch = watch_of(open_pack(pack), MOST)
    if not watch.people:
        raise EdgefaceError(f"{pack} holds nobody back: give a pack of more people or families")
    (judge, people), *_ = watch.people.items()
    gains, worse = dict[str, float](), []
    for name in names:
        old, new = (fastest(folder / f"{name}.onnx") for folder in (shipped, work))
        if not old.exists():
            continue
        before, after = tars(judge, people, old), tars(judge, people, new)
        for key, value in after.items():
            print(f"ship: {name} {key} {before[key]:.4f} → {value:.4f}", file=sys.stderr)
            gains[f"{name}.{key}"] = round(value - before[key], 4)
        if gains[f"{name}.{judge}.tar1e-4"] < 0:
            worse.append(name)
    if worse:
        raise EdgefaceError(
            f"{', '.join(worse)} finds fewer of the held-out people than what ships "
            f"({judge}, TAR at FAR 1e-4: {gains[f'{worse[0]}.{judge}.tar1e-4']:+.4f}): train on, "
            "or say --worse-too"
        )
    return gains


def verb(*words: object) -> Callable[[], None]:
    """A verb of `python -m export`, to be run.

    Raises:
        EdgefaceError: it fails.
    """
    from export.__main__ import main

    def run() -> None:
        told = [str(word) for word in words]
        with redirect_stdout(sys.stderr):
            code = main(told)
        if code:
            raise EdgefaceError(f"`python -m export {' '.join(told)}` failed with exit code {code}")

    return run


def plan(args: argparse.Namespace) -> list[Step]:
    """The steps in their order."""
    work, pack = args.work, args.pack
    names = [f"{args.name}{suffix}" for suffix in PRECISIONS]
    files = [work / f"{name}.onnx" for name in names]
    teachers = [word for path in args.teacher for word in ("--teacher", path.stem)]
    labels = ["--labels", *args.labels] if args.labels else []
    judge = args.teacher[0] if args.teacher else None
    tune = ["--tune", args.tune] if args.tune else []
    backgrounds = ["--backgrounds", args.backgrounds] if args.backgrounds else []
    steps: list[Step] = [
        ("onnx", verb("onnx", args.checkpoint, "--out", files[0])),
        ("int8", verb("int8", args.checkpoint, "--pack", pack, "--out", files[1], *tune)),
    ]
    if not args.worse_too:
        steps.append(("compare", lambda: note(work, compare(work, args.out, names, pack))))
    forms = [*files, files[1].with_suffix(".xml")]
    folds = ["--folds", args.folds]
    steps.append(("parity", verb("parity", args.checkpoint, *forms, "--lfw", args.lfw, *folds)))
    for (suffix, precision), file in zip(PRECISIONS.items(), files, strict=True):
        about = ["--precision", precision, "--backbone", args.backbone, "--phases", args.phases]
        known = ["--house", *teachers] if args.house else ["--terms", args.terms, *teachers]
        told = [*labels, *(["--judge", judge] if judge and labels else [])]
        steps += [
            (
                f"card{suffix}",
                verb("card", file, "--pack", pack, *about, *known, *told),
            ),
            (
                f"cohort{suffix}",
                verb(
                    "cohort", "--model", file, "--pack", pack, "--most", args.most, *labels,
                    *(["--teacher", judge] if judge else []), "--cache", work / "embeddings",
                ),
            ),
            (
                f"recognisability{suffix}",
                verb("recognisability", file, "--pack", pack, *backgrounds),
            ),
        ]  # fmt: skip
    people = ["--people", args.people] if args.people else []
    clips = ["--cache", work / "clips.npz"]
    steps += [
        ("fusion", verb("fusion", "--pack", pack, "--model", files[0], *clips, *people)),
        ("install", lambda: install(work, args.out, names)),
    ]
    if args.name == DEFAULT and args.out == WEIGHTS:
        features = ["--features", DEFAULT, "--features", "edgeface_xs", "--threshold", 0.5]
        shared = ["--shared", args.shared] if args.shared else []
        kept = ["--cache", work / "embeddings"]
        steps.append(("similarity", verb("similarity", *features, *shared, *kept)))
    return [step for step in steps if step[0].split("-")[0] not in args.without]


def note(work: Path, gains: dict[str, float]) -> None:
    """Keep what the comparison said."""
    (work / "gains.json").write_text(json.dumps(gains, indent=1) + "\n")


def run(steps: Sequence[Step], work: Path, key: Mapping[str, object]) -> None:
    """Do the steps that were not done with the same `key`, and note each."""
    journal = work / "ship.json"
    state = json.loads(journal.read_text()) if journal.exists() else {}
    if state.get("key") != key:
        state = {"key": key, "seconds": {}}
    for name, step in steps:
        if name in state["seconds"]:
            print(f"ship: {name} is done", file=sys.stderr)
            continue
        print(f"ship: {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        step()
        state["seconds"][name] = round(time.monotonic() - began, 1)
        journal.write_text(json.dumps(state, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export ship", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", default=DEFAULT, help="of the float file; -int8 is added")
    parser.add_argument("--pack", type=Path, required=True, help="the training pack")
    parser.add_argument("--lfw", type=Path, required=True, help="folder with pairs.txt, aligned112")
    parser.add_argument("--teacher", type=Path, nargs="*", default=[], help="the first also judges")
    parser.add_argument("--labels", type=Path, nargs="*", default=[], help="CSV files of groups")
    parser.add_argument("--backgrounds", type=Path, help="pictures without faces")
    parser.add_argument("--work", type=Path, required=True, help="folder to make everything in")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="default: the shipped weights")
    parser.add_argument("--shared", type=Path, help="folder with the test data, for similarity")
    parser.add_argument("--house", action="store_true", help="trained on the data `card` names")
    parser.add_argument("--terms", default="as its pictures allow", help="licence of the file")
    parser.add_argument("--backbone", default="MobileFaceNet")
    parser.add_argument("--phases", default="", help="how it was trained, in words")
    parser.add_argument("--tune", type=int, default=0, metavar="STEPS", help="of INT8, rounded")
    parser.add_argument("--folds", type=int, default=10, help="of LFW, for parity")
    parser.add_argument("--most", type=int, default=4000, help="pictures of a set, for cohort")
    parser.add_argument("--people", type=int, help="to train the fusion on, default all")
    parser.add_argument("--without", nargs="*", default=[], choices=LEAVABLE)
    parser.add_argument("--worse-too", action="store_true", help="do not compare")
    return parser


def main(argv: list[str]) -> int:
    args = arguments().parse_args(argv)
    for path in (args.checkpoint, args.pack.with_suffix(".npy"), *args.teacher, *args.labels):
        if not path.exists():
            print(f"ship: no file {path}", file=sys.stderr)
            return 2
    args.work.mkdir(parents=True, exist_ok=True)
    given = {k: v for k, v in vars(args).items() if k != "without"}
    key = {k: [*map(str, v)] if isinstance(v, list) else str(v) for k, v in given.items()}
    run(plan(args), args.work, key | {"digest": digest(args.checkpoint)})
    print(args.out / f"{args.name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
