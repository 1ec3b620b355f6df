"""Model cards: what a model file is, what it wants, how good it is, and under which terms.

A card is a JSON file beside the model with the same stem. Models are found by name among the
shipped weights and in `$EDGEFACE_HOME/models`, or by the path of the model or its card. A card may
name further files of the same model, each for the one runtime that is faster with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeface.errors import ModelError
from edgeface.types import Threshold

Task = Literal["detection", "embedding"]
WEIGHTS = Path(__file__).parents[1] / "weights"
SUFFIXES = (".onnx", ".xml")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model: its `path`, `task`, sha256 `digest`, embedding `size` (0 for detectors), default
    `threshold`, files for one runtime only in `variants` (runtime → path), and everything else the
    card says in `raw`."""

    name: str
    task: str
    path: Path
    digest: str
    size: int
    threshold: Threshold
    raw: dict[str, Any] = field(repr=False, hash=False)
    variants: dict[str, Path] = field(default_factory=dict, repr=False, hash=False)

    def file_for(self, runtime: str) -> Path:
        """The file a runtime should load: its variant, or the one for all."""
        return self.variants.get(runtime, self.path)

    def files(self) -> dict[Path, str]:
        """Every file of the model and its sha256: the network, its forms for one runtime, and the
        networks that fuse its embeddings."""
        named = [*self.raw.get("variants", {}).values(), *self.raw.get("fusion", {}).values()]
        more = [v for v in named if isinstance(v, dict) and "sha256" in v]
        return {self.path: self.digest} | {
            self.path.with_name(str(v["file"])): str(v["sha256"]) for v in more
        }


def folders() -> list[Path]:
    """Where models are looked for by name, in order: `$EDGEFACE_HOME/models`, shipped weights."""
    home = os.environ.get("EDGEFACE_HOME")
    return [*([Path(home) / "models"] if home else []), WEIGHTS]


def cards() -> Iterator[ModelCard]:
    """Every card that can be found by name, shipped and user's own."""
    seen: set[str] = set()
    for folder in folders():
        for file in sorted(folder.glob("*.json")):
            if file.stem not in seen:
                seen.add(file.stem)
                yield read_card(file)


def read_card(file: Path) -> ModelCard:
    """Parse one card.

    Raises:
        ModelError: the card is unreadable or lacks a field.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        return ModelCard(
            name=str(raw["name"]),
            task=str(raw["task"]),
            path=file.parent / str(raw["file"]),
            digest=str(raw["sha256"]),
            size=int(raw.get("embedding_size", 0)),
            threshold=Threshold(float(raw["threshold"]["value"]), "card"),
            variants={k: file.parent / str(v["file"]) for k, v in raw.get("variants", {}).items()},
            raw=raw,
        )
    except OSError as error:
        raise ModelError(f"card {file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"card {file} is not a model card: {error!r}; reinstall it") from error


def load_card(name_or_path: str | Path, task: Task, *, verify: bool = True) -> ModelCard:
    """The card of a model, checked against its file.

    Args:
        name_or_path: a name such as `mobilefacenet`, or the path of a model or card file.
        task: what the model must be for.
        verify: compare the file's sha256 with the card's.

    Raises:
        ModelError: no such model, wrong task, or the file's digest differs from the card's.
    """
    card = read_card(_find(name_or_path))
    if card.task != task:
        raise ModelError(f"model {card.name} is for {card.task}; a model for {task} is needed here")
    _check(card, card.path, card.digest, verify)
    for runtime, path in card.variants.items():
        _check(card, path, str(card.raw["variants"][runtime]["sha256"]), verify)
    return card


def _check(card: ModelCard, path: Path, expected: str, verify: bool) -> None:
    for file in parts(path):
        if not file.is_file():
            raise ModelError(f"model file {file} of card {card.name} is missing; reinstall it")
    if verify and (actual := digest(path)) != expected:
        raise ModelError(
            f"{path} has sha256 {actual[:12]}…, its card says {expected[:12]}…: "
            "the file is damaged or was replaced; reinstall it"
        )


def parts(path: Path) -> list[Path]:
    """The files a model is read from: OpenVINO's .xml has its weights beside it."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def digest(path: Path) -> str:
    """sha256 of a model file as hex; for OpenVINO IR the weights' `.bin` is hashed along."""
    with path.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256")
    if path.suffix == ".xml":
        sha.update(path.with_suffix(".bin").read_bytes())
    return sha.hexdigest()


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in {*SUFFIXES, ".json"}:
        card = path.with_suffix(".json")
        if not card.is_file():
            raise ModelError(f"{card} does not exist; a model needs its card beside it")
        return card
    for folder in folders():
        card = folder / f"{name_or_path}.json"
        if card.is_file():
            return card
    known = sorted({f.stem for folder in folders() for f in folder.glob("*.json")})
    raise ModelError(f"no model named {str(name_or_path)!r}; known: {', '.join(known) or 'none'}")
