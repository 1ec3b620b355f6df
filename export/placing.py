"""Putting a finished model where it is found: all its files, each as a whole, the card last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeface.atomic import replacing
from edgeface.models import ModelCard, parts, read_card
from edgeface.recognisability import Recogniser


def install(work: Path, target: Path, names: Sequence[str]) -> None:
    """Put the files of the models into `target`, each as a whole and the card last; files of the
    cards there before that the new ones do not name are removed."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        old = target / f"{name}.json"
        before = set(files_of(read_card(old))) if old.exists() else set()
        new = [file.relative_to(work) for file in files_of(read_card(work / old.name))]
        for file in (*new, Path(old.name)):
            with replacing(target / file) as stream:
                stream.write((work / file).read_bytes())
            (target / file).chmod(0o644)
        for file in before - {target / file for file in new}:
            file.unlink(missing_ok=True)


def files_of(card: ModelCard) -> Iterator[Path]:
    """Every file that ships with a card, but itself."""
    for file in card.files():
        yield from parts(file.path)
    for beside in (card.path.with_suffix(".cohort.npz"), Recogniser.place(card.path)):
        if beside.exists():
            yield beside
