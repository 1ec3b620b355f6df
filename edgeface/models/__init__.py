"""Model cards: what a model file is, what it wants, how good it is, and under which terms.

A card is a JSON file beside the model with the same stem. Models are found by name among the
shipped weights and in `$EDGEFACE_HOME/models`, or by the path of the model or its card. A card may
name further files of the same model, each for the one runtime that is faster with it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edgeface.errors import ModelError
from edgeface.models.card import (
    FileRef,
    FusionSpec,
    Group,
    Impostors,
    InputSpec,
    ModelCard,
    Task,
)
from edgeface.models.cardfile import read_card, write_card

__all__ = [
    "SUFFIXES",
    "WEIGHTS",
    "FileRef",
    "FusionSpec",
    "Group",
    "Impostors",
    "InputSpec",
    "ModelCard",
    "Task",
    "card_files",
    "cards",
    "check_file",
    "digest",
    "folders",
    "load_card",
    "parts",
    "read_card",
    "write_card",
]

log = logging.getLogger(__name__)
WEIGHTS = Path(__file__).parents[1] / "weights"
SUFFIXES = (".onnx", ".xml")


def folders() -> list[Path]:
    """Where models are looked for by name, in order: `$EDGEFACE_HOME/models`, shipped weights."""
    home = os.environ.get("EDGEFACE_HOME")
    return [*([Path(home) / "models"] if home else []), WEIGHTS]


def cards() -> Iterator[ModelCard]:
    """Every card that can be found by name, shipped and user's own; one that cannot be read is
    passed over with a warning, for it must not hide the others."""
    for file in card_files():
        try:
            yield read_card(file)
        except ModelError as error:
            log.warning("%s", error)


def card_files() -> Iterator[Path]:
    """The file of every card that can be found by name, readable or not."""
    seen: set[str] = set()
    for folder in folders():
        for file in sorted(folder.glob("*.json")):
            if file.stem not in seen:
                seen.add(file.stem)
                yield file


def load_card(
    name_or_path: str | Path, task: Task | None = None, *, verify: bool = True
) -> ModelCard:
    """The card of a model, checked against its file.

    Args:
        name_or_path: a name such as `mobilefacenet`, or the path of a model or card file.
        task: what the model must be for; None for anything.
        verify: compare the file's sha256 with the card's.

    Raises:
        ModelError: no such model, wrong task, or the file's digest differs from the card's.
    """
    card = read_card(_find(name_or_path))
    if task is not None and card.task != task:
        raise ModelError(f"model {card.name} is for {card.task}; a model for {task} is needed here")
    for file in card.files():
        check_file(card, file, verify=verify)
    return card


def check_file(card: ModelCard, file: FileRef, *, verify: bool = True) -> None:
    """Whether a file of a model is there and, with `verify`, the one that its card names.

    Raises:
        ModelError: it is missing, damaged or was replaced.
    """
    for part in parts(file.path):
        if not part.is_file():
            raise ModelError(f"model file {part} of card {card.name} is missing; reinstall it")
    if verify and (actual := digest(file.path)) != file.digest:
        raise ModelError(
            f"{file.path} has sha256 {actual[:12]}…, its card says {file.digest[:12]}…: "
            "the file is damaged or was replaced; reinstall it"
        )


def parts(path: Path) -> list[Path]:
    """The files a model is read from: OpenVINO's .xml has its weights beside it."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def digest(path: Path) -> str:
    """sha256 of a model file as hex; for OpenVINO IR the weights' `.bin` is hashed along.

    Raises:
        ModelError: a file cannot be read.
    """
    sha = hashlib.sha256()
    try:
        for part in parts(path):
            with part.open("rb") as stream:
                hashlib.file_digest(stream, lambda: sha)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    return sha.hexdigest()


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    try:
        return _card_of(path)
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise ModelError(f"{str(path)[:80]} cannot be looked for: {error.strerror}") from error


def _card_of(path: Path) -> Path:
    if path.suffix in {*SUFFIXES, ".json"}:
        card = path.with_suffix(".json")
        if not card.is_file():
            raise ModelError(f"{card} does not exist; a model needs its card beside it")
        return card
    for folder in folders():
        card = folder / f"{path}.json"
        if card.is_file():
            return card
    known = sorted({f.stem for folder in folders() for f in folder.glob("*.json")})
    raise ModelError(f"no model named {str(path)!r}; known: {', '.join(known) or 'none'}")
