"""The import law of the house, read from the code itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgeface"

LAYERS = {
    0: {"types", "errors", "metrics"},
    1: {
        "atomic",
        "closing",
        "redaction",
        "document",
        "runtime",
        "models",
        "score",
        "bankfile",
        "headers",
        "opencv",
        "images",
        "listing",
        "assign",
        "stopping",
        "stages",
    },
    2: {
        "video",
        "detect",
        "alignment",
        "quality",
        "recognisability",
        "embed",
        "track",
        "motion",
        "aggregate",
        "gallery",
        "submodels",
        "decide",
        "calibrate",
        "promise",
        "cluster",
        "cohort",
        "draw",
        "movie",
        "plot",
    },
    3: {
        "identify",
        "follow",
        "describe",
        "gate",
        "answers",
        "settings",
        "enrolment",
        "pairs",
        "watching",
        "thresholds",
        "sinks",
        "sightings",
        "trace",
        "doctor",
        "piles",
        "tidy",
        "cameras",
        "wires",
        "backup",
        "importing",
    },
    4: {"serve"},
    5: {"cli"},
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
# Heavy or optional packages and the only modules that may import them.
OWNERS = {
    "cv2": {"opencv"},
    "pillow_heif": {"images"},
    "onnxruntime": {"runtime"},
    "openvino": {"runtime"},
    "numba": {"score"},
    "hnswlib": {"gallery", "cluster"},
    "typer": {"cli"},
    "paho": {"wires"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
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


# What runs from a checkout: each may import those before it.
ORDER = ("edgeface", "export", "bench")
# bench compares with torch, and sets its threads, in these modules; everything else of bench and
# what it shares with export run without it.
TORCH = {"export": True, "export.protocols": False, "bench": False}
TORCH_PEERS = {"bench.score_peers", "bench.timing"}


def breaches(module: str, names: set[str]) -> list[str]:
    """What a module (dotted) of export or bench imports against the law."""
    here = module.split(".", maxsplit=1)[0]
    later = set(ORDER[ORDER.index(here) + 1 :])
    found = [f"{module} imports {n}: {here} comes first" for n in names if n.split(".")[0] in later]
    folder = max((f for f in TORCH if f"{module}.".startswith(f"{f}.")), key=len)
    if any(n.split(".")[0] == "torch" for n in names):
        allowed = TORCH[folder] or module in TORCH_PEERS
        found += [] if allowed else [f"{module} imports torch"]
    return sorted(found)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


WORKSHOP = {dotted(p): p for folder in ("export", "bench") for p in modules(ROOT / folder)}


@pytest.mark.parametrize("module", WORKSHOP)
def test_imports_go_from_edgeface_to_export_to_bench(module: str) -> None:
    assert breaches(module, imports(WORKSHOP[module])) == []


def test_what_export_and_bench_share_reaches_no_torch() -> None:
    waiting = [m for m in WORKSHOP if m.startswith("export.protocols")]
    assert waiting
    seen: dict[str, str] = dict.fromkeys(waiting, "")
    while waiting:
        module = waiting.pop()
        for name in imports(WORKSHOP[module]):
            assert name.split(".")[0] != "torch", f"{module} (by way of {seen[module]}) needs torch"
            if name in WORKSHOP and name not in seen:
                seen[name] = module
                waiting.append(name)


@pytest.mark.parametrize(
    ("module", "text", "unlawful"),
    [
        ("export.fusion", "from bench.fusion import interval", 1),
        ("export.fusion", "def f():\n    from bench import fusion, score", 1),
        ("export.networks.deep", "import bench", 1),
        ("export.fusion", "import torch\nfrom export.protocols import lfw", 0),
        ("export.protocols.lfw", "import torch.nn", 1),
        ("export.protocols", "from torch import nn", 1),
        ("export.protocolsx", "import torch", 0),
        ("bench.fusion", "import torch", 1),
        ("bench.score_peers", "import torch", 0),
        ("bench.fusion", "from export.fusion import fuse\nimport edgeface", 0),
        ("bench.peers.with_torch", "if True:\n    import torch", 1),
    ],
)
def test_the_law_can_be_broken(tmp_path: Path, module: str, text: str, unlawful: int) -> None:
    file = tmp_path / "module.py"
    file.write_text(text)
    found = breaches(module, imports(file))
    assert bool(found) == bool(unlawful), found


def test_there_is_no_drawer_for_everything() -> None:
    names = {p.name for room in ("edgeface", "export", "bench") for p in modules(ROOT / room)}
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}
