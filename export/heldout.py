"""Held-out people, looked at while an embedder trains: what the choice between states goes by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from export.aims import Floats, units
from export.data import Pack, hold_out
from export.protocols.families import People
from export.protocols.pictures import shrink_all
from export.teachers import to_input
from export.training import as_tensor

SMALL = (24, 16)  # pixels a probe is scaled down to


def embed(network: nn.Module, images: NDArray[np.uint8], batch: int = 50) -> Floats:
    """(n, d) float32 rows before normalisation; leaves the network in evaluation mode."""
    network.eval()
    with torch.no_grad():
        rows = [
            network(as_tensor(to_input(np.asarray(images[i : i + batch])))).numpy()
            for i in range(0, len(images), batch)
        ]
    return np.concatenate(rows)


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Held-out `people` by the name of their set."""

    people: dict[str, People]

    def figures(self, network: nn.Module) -> dict[str, float]:
        """TAR of every set, clean against clean and against the same pictures made small."""
        line: dict[str, float] = {}
        for name, people in self.people.items():
            clean = units(embed(network, people.images))
            found = {name: people.tar(clean, clean)}
            for size in SMALL:
                small = units(embed(network, shrink_all(people.images, size)))
                found[f"{name}.px{size}"] = people.tar(clean, small)
            for key, values in found.items():
                line |= {f"{key}.{figure}": round(value, 4) for figure, value in values.items()}
        return line


def watch_of(data: Pack, most: int) -> Watch:
    """Held-out people with two pictures and more: relatives (`kin`) and the others (`people`), at
    most `most` pictures of each; a set of one family has no impostors and is left out."""
    family = data.families()
    held = hold_out(data) & data.keep & (data.identity >= 0)
    counts = np.bincount(data.identity[held], minlength=len(data.names))
    held[held] = counts[data.identity[held]] > 1
    relatives = np.bincount(np.unique(np.stack([family, data.identity]), axis=1)[0] + 1) > 1
    kin = relatives[family + 1]
    sets = {}
    for name, rows in (("kin", held & kin), ("people", held & ~kin)):
        chosen = np.flatnonzero(rows)[:most]
        if len(np.unique(family[chosen])) > 1:
            images = np.asarray(data.images[chosen])
            sets[name] = People(images, data.identity[chosen], family[chosen])
    return Watch(sets)
