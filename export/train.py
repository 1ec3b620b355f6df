"""`python -m export train WHAT --data DIR …`: train a model from pictures; WHAT is

embedder  a face embedder from folders of people, margin loss (see also `distil`, which needs a
          teacher and no names)
detector  the five-landmark detector from scenes and a teacher
siamese   one-shot matching, contrastive or triplet
heads     submodel heads over the people of a folder, on a shipped embedder's embeddings
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def heads(argv: list[str]) -> int:
    """Embed the people of --data and hand their embeddings to `export heads`."""
    import argparse

    from edgeface.embed import DEFAULT, Embedder
    from export.classes import DataError, open_data
    from export.heads import main as train

    parser = argparse.ArgumentParser(prog="python -m export train heads", allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder of people, or a pack")
    parser.add_argument("--out", type=Path, required=True, help="folder for features and the bank")
    parser.add_argument("--model", default=DEFAULT, help="embedder by name or file")
    args, rest = parser.parse_known_args(argv)
    try:
        _, data = open_data(args.data, args.out)
    except DataError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    embedder, features = Embedder.load(args.model), args.out / "features"
    features.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(data.names):
        rows = np.flatnonzero((data.identity == number) & data.keep)
        if len(rows):
            crops = np.ascontiguousarray(data.images[rows])
            np.savez(features / f"{Path(name).name}.npz", x=embedder(crops))
    fixed = [str(features), "--out", str(args.out / "heads.efb"), "--embedder"]
    return int(train([*fixed, str(embedder.card.path), *rest]))


def main(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        print(__doc__)
        return 0
    what, rest = argv[0], argv[1:]
    if what == "embedder":
        from export.embedder import main as train
    elif what == "detector":
        from export.detector import main as train
    elif what == "siamese":
        from export.siamese import main as train
    elif what == "heads":
        return heads(rest)
    else:
        print(f"train: no {what!r}; embedder, detector, siamese or heads", file=sys.stderr)
        return 2
    return int(train(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
