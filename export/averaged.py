"""A network in training beside the moving average of its weights, as one file on disk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from export.checkpoint import read_checkpoint

KEPT = 0.999  # of the average, a step
Model = TypeVar("Model", bound=nn.Module)


class Averaged(Generic[Model]):
    """Network, optimizer, moving average and step counter, saved and restored as one file. What
    needs no gradient is not trained."""

    def __init__(self, model: Model, *, lr: float, decay: float = 0.01) -> None:
        self.average = copy.deepcopy(model).eval()
        self.model = model.to(memory_format=torch.channels_last)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=decay)
        self.lr, self.step, self.batch = lr, 0, 0

    def save(self, path: Path) -> None:
        """An interruption leaves the file before or this one."""
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        state = {name: part.state_dict() for name, part in parts.items()}
        partial = path.with_suffix(".partial")
        torch.save(state | {"step": self.step, "batch": self.batch}, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """EdgefaceError when `path` is no file of `save`."""
        state = read_checkpoint(path, "model", "average", "optimizer", "step")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def descend(self, loss: Tensor, *, rate: float, longest: float) -> None:
        """One optimizer step down `loss`, its gradient no longer than `longest`; the average
        follows, quickly at first."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        self.optimizer.step()
        self.step += 1
        keep = min(KEPT, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            theirs = self.model.state_dict()
            for name, value in self.average.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(theirs[name], 1 - keep)
                else:
                    value.copy_(theirs[name])
