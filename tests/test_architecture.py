"""The import law of the house, read from the code itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgeface"

LAYERS = {
    0: {"types", "errors", "metrics"},
    1: {"runtime", "models", "score", "bankfile", "images", "assign"},
    2: {
        "video",
        "detect",
        "alignment",
        "quality",
        "embed",
        "track",
        "aggregate",
        "gallery",
        "submodels",
        "decide",
        "calibrate",
        "cluster",
        "cohort",
        "draw",
        "plot",
    },
    3: {"identify", "follow", "thresholds", "trace", "doctor", "piles", "tidy"},
    4: {"cli"},
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
# Heavy or optional packages and the only modules that may import them.
OWNERS = {
    "onnxruntime": {"runtime"},
    "openvino": {"runtime"},
    "numba": {"score"},
    "hnswlib": {"gallery", "cluster"},
    "typer": {"cli"},
    "torch": set(),
}


def modules(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def imports(path: Path) -> set[str]:
    """Every module a file imports, at any depth, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def stage(path: Path) -> str:
    """The stage a file of the package belongs to: its own name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_allows(path: Path) -> None:
    here = stage(path)
    if here == "__init__":
        return
    assert here in LAYER_OF, f"{here} has no layer: give it one in this test and ARCHITECTURE.md"
    for name in imports(path):
        parts = name.split(".")
        top = parts[0]
        assert top not in OWNERS or here in OWNERS[top], f"{path} may not import {top}"
        assert top not in {"export", "bench"}, f"{path} may not import {top}"
        if top != "edgeface" or len(parts) < 2 or parts[1] not in LAYER_OF or parts[1] == here:
            continue
        lower = LAYER_OF[parts[1]] < LAYER_OF[here]
        same_foundation = LAYER_OF[here] == LAYER_OF[parts[1]] and LAYER_OF[here] in {0, 1, 3}
        assert lower or same_foundation, f"{path} (layer {LAYER_OF[here]}) may not import {name}"


def test_torch_lives_in_the_workshop_alone() -> None:
    for folder in ("edgeface", "bench"):
        for path in modules(ROOT / folder):
            assert not any(
                n.split(".")[0] == "torch" for n in imports(path) if "bench" not in folder
            )


def test_there_is_no_drawer_for_everything() -> None:
    names = {p.name for room in ("edgeface", "export", "bench") for p in modules(ROOT / room)}
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}
