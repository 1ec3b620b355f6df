"""Cards, runtimes and the embedder around a toy network."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FakeSession, write_model

from edgeface.embed import Embedder
from edgeface.errors import ArgumentError, ImageError, ModelError
from edgeface.models import ModelCard, cards, digest, load_card, read_card
from edgeface.runtime import choose, open_session, weigh

TOY = (Path(__file__).parent / "toys" / "embedder.onnx").read_bytes()
RUNTIMES = [r for r in ("onnxruntime", "openvino") if importlib.util.find_spec(r)]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_model(tmp_path, "toy", TOY, embedding_size=48)


def crops(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 112, 112, 3), dtype=np.uint8)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_both_runtimes_embed_alike_at_any_batch(toy: Path, runtime: str) -> None:
    embedder = Embedder.load(toy, runtime=runtime, threads=1)
    pictures = crops(41)
    rows = embedder(pictures)
    assert rows.shape == (41, 48)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    planes = pictures[..., ::-1].astype(np.float64).reshape(41, 4, 28, 4, 28, 3).mean((2, 4))
    flat = planes.transpose(0, 3, 1, 2).reshape(41, 48)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(rows, flat, atol=1e-4)
    np.testing.assert_allclose(embedder(pictures[7:8])[0], rows[7], atol=1e-5)
    assert embedder(pictures[:0]).shape == (0, 48)


def test_batches_take_few_sizes(embedding_card) -> None:
    session = FakeSession(lambda image: {"embedding": np.ones((len(image), 8), np.float32)})
    embedder = Embedder(session, embedding_card)
    for n in range(1, 45):
        embedder(crops(n))
    assert {len(c["image"]) for c in session.calls} <= {1, 2, 4, 8, 32}


@pytest.mark.parametrize("bad", [np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 112, 112, 3))])
def test_crops_of_another_kind_are_refused(embedding_card, bad: np.ndarray) -> None:
    with pytest.raises(ImageError, match="align"):
        Embedder(FakeSession(lambda image: {}), embedding_card)(bad)


@pytest.mark.parametrize("rows", [np.full((1, 8), np.nan, np.float32), np.ones((1, 9), np.float32)])
def test_a_network_that_returns_nonsense_is_refused(embedding_card, rows: np.ndarray) -> None:
    with pytest.raises(ModelError, match="toy"):
        Embedder(FakeSession(lambda image: {"embedding": rows}), embedding_card)(crops(1))


def test_a_card_is_found_by_name_and_by_path(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_card(toy, "embedding").size == 48
    assert load_card(toy.with_suffix(".onnx"), "embedding").name == "toy"
    folder = toy.parent / "models"
    folder.mkdir()
    write_model(folder, "mine", TOY, embedding_size=48)
    monkeypatch.setenv("EDGEFACE_HOME", str(toy.parent))
    assert load_card("mine", "embedding").digest == digest(folder / "mine.onnx")
    assert "mine" in {c.name for c in cards()}


def test_what_is_wrong_with_a_model_is_said(toy: Path) -> None:
    with pytest.raises(ModelError, match="no model named 'nothing'; known"):
        load_card("nothing", "embedding")
    with pytest.raises(ModelError, match="is for embedding"):
        load_card(toy, "detection")
    with pytest.raises(ModelError, match="needs its card"):
        load_card(toy.parent / "other.onnx", "embedding")
    toy.with_suffix(".onnx").write_bytes(TOY + b"x")
    with pytest.raises(ModelError, match="damaged or was replaced"):
        load_card(toy, "embedding")
    toy.with_suffix(".onnx").unlink()
    with pytest.raises(ModelError, match="is missing"):
        load_card(toy, "embedding")
    toy.write_text(json.dumps({"name": "toy"}))
    with pytest.raises(ModelError, match=r"toy\.json: .*(at \$\.task|not JSON)"):
        load_card(toy, "embedding")
    toy.write_text("{")
    with pytest.raises(ModelError, match=r"toy\.json: .*(at \$\.task|not JSON)"):
        load_card(toy, "embedding")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_broken_network_is_refused(tmp_path: Path, runtime: str) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"this is no network")
    with pytest.raises(ModelError, match="is not a model"):
        open_session(file, runtime=runtime)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="does not exist"):
        open_session(tmp_path / "none.onnx")
    with pytest.raises(ArgumentError, match="threads"):
        open_session(file, threads=0)
    with pytest.raises(ArgumentError, match="give 1 to 256"):
        open_session(file, threads=1_000_000)


def test_an_unknown_or_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="unknown"):
        choose("tensorrt")  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"edgeface\[openvino\]"):
        choose("openvino")
    assert choose("auto") == "onnxruntime"


def test_every_shipped_model_fits_its_card() -> None:
    shipped = list(cards())
    assert {"detector", "mobilefacenet"} <= {c.name for c in shipped}
    for card in shipped:
        assert digest(card.path) == card.digest
        assert card.path.stat().st_size < 10_000_000
        assert card.about["training"] and card.about["metrics"] and card.license, card.name


def variant_model(folder: Path) -> Path:
    """A card whose OpenVINO file is an IR pair of its own."""
    (folder / "toy.xml").write_bytes(b"<net/>")
    (folder / "toy.bin").write_bytes(b"\x00")
    other = {"file": "toy.xml", "sha256": digest(folder / "toy.xml")}
    return write_model(folder, "toy", b"one", variants={"openvino": other})


def test_auto_takes_openvino_where_a_model_has_a_file_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_ir, without = (
        load_card(variant_model(tmp_path), "embedding"),
        read_card(write_model(tmp_path, "plain", b"")),
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert choose("auto", with_ir) == "openvino"
    assert choose("auto", without) == choose("auto") == "onnxruntime"
    assert choose("openvino", without) == "openvino"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert choose("auto", with_ir) == "onnxruntime"


def test_the_choice_of_a_runtime_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ir = load_card(variant_model(tmp_path), "embedding")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    assert "float32" in weigh().reason and "INT8" in weigh(with_ir).reason
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "aarch64" in weigh(with_ir).reason
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert weigh(with_ir).runtime == "onnxruntime"
    assert "pip install 'edgeface[openvino]'" in weigh(with_ir).reason


GROWTH = """
import numpy as np
from edgeface.models import load_card
from edgeface.runtime import open_model

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1024

card = load_card("detector", "detection")
session, before = open_model(card, runtime="openvino"), resident()
for width in range(64, 640, 32):
    for height in range(64, 384, 64):
        picture = np.zeros((1, height, width, 3), np.uint8)
        session.run({card.input.name: card.input.tensor(picture)})
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_openvino_does_not_keep_every_size_it_has_seen() -> None:
    """Parts of frames have hundreds of sizes: 201 MB for 150 of them without a limit, 81 with."""
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 130


def test_a_variant_is_the_file_of_its_runtime_only(tmp_path: Path) -> None:
    card = load_card(variant_model(tmp_path), "embedding")
    assert card.file_for("openvino") == tmp_path / "toy.xml"
    assert card.file_for("onnxruntime") == card.path == tmp_path / "toy.onnx"


@pytest.mark.parametrize("what", ["changed", "missing"])
def test_a_damaged_variant_is_refused(tmp_path: Path, what: str) -> None:
    card = variant_model(tmp_path)
    weights = tmp_path / "toy.bin"
    if what == "missing":
        weights.unlink()
    else:
        weights.write_bytes(b"\x01")
    with pytest.raises(ModelError, match=r"toy\.bin|damaged"):
        load_card(card, "embedding")


@pytest.mark.parametrize("card", list(cards()), ids=lambda c: c.name)
def test_a_shipped_model_says_where_it_comes_from(card: ModelCard) -> None:
    training = card.about["training"]
    assert isinstance(training, dict)
    assert "research" in card.license
    assert not isinstance(training["data"], str)  # set by set, with its terms
    assert "unknown terms" not in json.dumps(training["teachers"])
