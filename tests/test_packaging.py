"""What an installation brings, and what works without the extras."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT

import edgeface
from edgeface.gallery import Gallery
from edgeface.gallery.index import families, mirror
from edgeface.gallery.index.scan import Exact

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_few_dependencies_and_no_upper_bounds() -> None:
    assert len(PROJECT["dependencies"]) <= 8
    extras = PROJECT["optional-dependencies"].values()
    everything = [*PROJECT["dependencies"], *(d for extra in extras for d in extra)]
    assert [d for d in everything if "<" in d.split(";")[0] or "==" in d.split(";")[0]] == []


def test_the_changelog_begins_with_the_version_that_is_built() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert re.fullmatch(
        rf"## {re.escape(PROJECT['version'])} \((unreleased|\d{{4}}-\d\d-\d\d)\)", versions[0]
    )


def test_no_build_is_for_this_processor_alone() -> None:
    sources = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    for file in sources:
        text = file.read_text(encoding="utf-8")
        assert "march=native" not in text and "fast-math" not in text, file


def test_without_hnswlib_large_galleries_are_searched_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(families, "FAMILIES", [])
    monkeypatch.setattr(mirror, "EXACT_LIMIT", 100)
    rows = rng.standard_normal((300, 8)).astype(np.float32)
    with Gallery.open(tmp_path / "x.gallery", model="m", size=8) as gallery:
        for n in range(3):
            gallery.enroll(f"p{n}", rows[100 * n : 100 * (n + 1)])
        gallery.settle()
        assert type(gallery._finder._index.searcher) is Exact
        assert gallery.search(rows[250], 1)[0].name == "p2"
    with Gallery.open(tmp_path / "x.gallery", model="m", size=8) as again:
        assert again.search(rows[120], 1)[0].name == "p1"


def test_public_names_are_listed_and_found_whatever_was_imported_before() -> None:
    assert set(edgeface.__all__) <= set(dir(edgeface))
    for name in edgeface.__all__:
        importlib.import_module(f"edgeface.{edgeface._HOME[name]}")
        assert not isinstance(getattr(edgeface, name), ModuleType), name
    module = importlib.import_module("edgeface.alignment")
    assert isinstance(module, ModuleType) and edgeface.align is module.align
    with pytest.raises(AttributeError, match="nothing"):
        edgeface.nothing  # noqa: B018


PROGRAM = """
import cv2
import edgeface as ef

image = cv2.imread("a.jpg")
assert image is not None
detector, embedder = ef.Detector.load(), ef.Embedder.load()
faces: list[ef.Face] = detector(image)
embeddings = embedder(ef.align(image, faces))
print(embeddings.shape)
with ef.Identifier.open("office.gallery") as app:
    app.enroll("Alice", ["a.jpg", image])
    for sighting in app.identify(image):
        print(sighting.decision.name)
    for event in app.watch("cam0"):
        print(event.to_json())
"""


def test_a_strictly_typed_program_may_pass_what_opencv_reads(tmp_path: Path) -> None:
    assert (ROOT / "edgeface" / "py.typed").exists()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    api = pytest.importorskip("mypy.api")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent"]
    says, _, _ = api.run([*options, "--cache-dir", str(ROOT / ".mypy_cache"), str(program)])
    assert "Success" in says, says
