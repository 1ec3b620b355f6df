"""bench.clustering --dataset: a folder of people, scored and drawn."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("openvino")
pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from bench import clustering_dataset
from bench.__main__ import main
from edgeface.metrics import normalized_mutual_information, pairwise

PEOPLE, EACH, SIZE = 5, 6, 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """People of one pattern each with noise over it: some crops, some of 160x140, a note."""
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        place = tmp_path / "set" / f"n{person:06d}"
        place.mkdir(parents=True)
        pattern = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (160, 140))
        for i in range(EACH):
            picture = np.clip(pattern + rng.normal(0, 12, pattern.shape), 0, 255).astype(np.uint8)
            picture = cv2.resize(picture, (112, 112)) if i % 2 else picture
            cv2.imwrite(str(place / f"{i}.png"), picture)
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / "n000000" / "bad.jpg").write_bytes(b"no picture")
    return tmp_path / "set"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network of the original's form, RGB in [-1, 1], one picture at a time, rows not unit."""
    weights = np.random.default_rng(1).normal(size=(SIZE, 3, 28, 28)).astype(np.float32) / 50
    nodes = [
        helper.make_node("Conv", ["modelInput", "w"], ["maps"], strides=[28, 28]),
        helper.make_node("GlobalAveragePool", ["maps"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["modelOutput"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("modelInput", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("modelOutput", TensorProto.FLOAT, [1, SIZE])],
        [numpy_helper.from_array(weights, "w")],
    )
    file = tmp_path / "toy.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        str(file),
    )
    return file


def run(folder: Path, *options: str) -> int:
    out = str(folder.parent / "evaluation_results")
    return main(["clustering", "--dataset", str(folder), "--out", out, *options])


def test_a_folder_is_scored_by_a_file_of_the_original(
    folder: Path, network: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, int]] = []

    def draw(faces: object, labels: object, file: Path, dimensions: int) -> None:
        drawn.append((file.name, dimensions))

    monkeypatch.setattr(clustering_dataset, "draw", draw)
    assert run(folder, "--name", "toys", "--model", str(network)) == 0
    captured = capsys.readouterr()
    assert "passed over" in captured.err and "bad.jpg" in captured.err
    assert "clustering.toys.toy.nmi" in captured.out
    place = folder.parent / "evaluation_results" / "toy" / "toys"
    with (place / "faces.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == PEOPLE * EACH
    assert all(row["file"].startswith(row["class"] + "/") for row in rows)
    truth = np.array([int(row["class"][1:]) for row in rows])
    labels = np.array([int(row["cluster"]) for row in rows])
    metrics = json.loads((place / "metrics.json").read_text())
    assert metrics["nmi"] == pytest.approx(normalized_mutual_information(truth, labels))
    assert metrics["pairwise_f"] == pytest.approx(pairwise(truth, labels).f)
    assert metrics["pictures"] == PEOPLE * EACH and metrics["classes"] == PEOPLE
    sheet = cv2.imread(str(place / "samples.jpg"))
    assert sheet.shape[1] == 12 * 112 and sheet.shape[0] % 112 == 0
    assert drawn == [("umap-2d.png", 2), ("umap-3d.png", 3)] or "no maps" in captured.err


def test_the_original_s_input_is_what_the_file_gets(folder: Path, network: Path) -> None:
    called, embed = clustering_dataset.opened(str(network), 1)
    crops = np.random.default_rng(2).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    weights = numpy_helper.to_array(onnx.load(str(network)).graph.initializer[0])
    x = (crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float64) - 127.5) / 127.5
    tiles = x.reshape(3, 3, 4, 28, 4, 28)
    rows = np.einsum("nchiwj,kcij->nk", tiles, weights.astype(np.float64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert called == "toy" and np.abs(embed(crops) - rows).max() < 1e-5


def test_the_map_has_a_point_for_every_face_and_a_legend(
    folder: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # umap-learn compiles for minutes: what it gives is taken as given.
    class Mapper:
        def __init__(self, *, n_components: int, n_neighbors: int, **_: object) -> None:
            assert n_neighbors < PEOPLE * EACH
            self.size = n_components

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, : self.size]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Mapper))
    faces = clustering_dataset.read_folder(folder, clustering_dataset.opened(str(network), 1)[1])
    labels = np.where(faces.truth == 0, -1, faces.truth).astype(np.int32)
    seen = []
    kept = clustering_dataset._scatter

    def scatter(axes, points, values, called):
        kept(axes, points, values, called)
        texts = [t.get_text() for t in axes.get_legend().get_texts()]
        seen.append((points.shape, sorted(texts)))

    monkeypatch.setattr(clustering_dataset, "_scatter", scatter)
    for dimensions in (2, 3):
        file = folder.parent / f"{dimensions}.png"
        clustering_dataset.draw(faces, labels, file, dimensions)
        assert cv2.imread(str(file)) is not None
    assert [shape for shape, _ in seen] == [(30, 2), (30, 2), (30, 3), (30, 3)]
    assert seen[0][1] == [f"n{i:06d}" for i in range(PEOPLE)]
    assert seen[1][1] == ["1 more", *(f"cluster {i}" for i in range(1, PEOPLE))]


def test_what_is_no_such_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none") == 1
    assert "not a folder of pictures" in capsys.readouterr().err
    (tmp_path / "flat").mkdir()
    assert run(tmp_path / "flat") == 1
    assert "a folder per person" in capsys.readouterr().err
