"""Reading checkpoints: what a file is, said before anything is made of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from edgeface.errors import EdgefaceError

# What wrote a checkpoint, by an entry that no other has.
_KINDS = {"kind": "a head of `train siamese`", "average": "a detector of `train detector`"}


def read_checkpoint(path: Path, *needed: str, device: str = "cpu") -> dict[str, Any]:
    """The state stored in a checkpoint, which has the entries `needed`.

    EdgefaceError when it cannot be read or is of another kind; nothing in it is executed.
    """
    try:
        state = torch.load(path, weights_only=True, map_location=device)
    except OSError as error:
        raise EdgefaceError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise EdgefaceError(f"{path} is not a checkpoint, or is damaged") from error
    if not isinstance(state, dict) or any(name not in state for name in needed):
        found = [what for entry, what in _KINDS.items() if entry in (state or ())]
        raise EdgefaceError(
            f"{path} is {found[0] if found else 'no checkpoint of this kind'}; it lacks "
            f"{', '.join(needed)}"
            + ("; write it into an embedder with `train siamese --fold`" if "kind" in state else "")
        )
    return state
