"""Interfaces of other face services, for programs that speak nothing else; off unless asked for.

Each is a few more addresses over the same people and models, with tokens where those programs put
them. What they call confidence or similarity is a number to show (`edgeface.wires.confidence`).
"""

from __future__ import annotations

from edgeface.serve.dialects import compreface, deepstack
from edgeface.serve.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {d.name: d for d in (deepstack.DIALECT, compreface.DIALECT)}

__all__ = ["DIALECTS", "Dialect"]
