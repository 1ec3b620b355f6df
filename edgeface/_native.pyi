"""The C extension; edgeface.score is its only caller."""

from typing import Any

def kernels() -> list[str]: ...
def topk(
    kernel: str | None, rows: Any, probes: Any, q: int, k: int, threads: int, ids: Any, sims: Any, /
) -> tuple[int, int]: ...
def mixmaxsim(
    kernel: str | None,
    weights: Any,
    centres: Any,
    probes: Any,
    q: int,
    threads: int,
    classes: Any,
    scores: Any,
    submodels: Any,
    /,
) -> tuple[int, int]: ...
