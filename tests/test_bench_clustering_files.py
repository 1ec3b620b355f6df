"""The benchmark's file formats, there and back, and what damage is called."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("scipy")

from bench.clustering import add_arguments, figures
from bench.clustering_config import TRAIN, Config
from bench.clustering_files import (
    cluster_features,
    labelled,
    read_features,
    read_labels,
    read_neighbours,
    write_features,
    write_labels,
    write_neighbours,
)
from bench.clustering_methods import METHODS
from edgeface.cluster import EdgeModel, cluster, neighbours
from edgeface.cluster.attention import Transformer
from edgeface.errors import ArgumentError, DataError, ModelError
from edgeface.metrics import pairwise


@pytest.fixture
def rows() -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_features_are_headerless_little_endian_floats(tmp_path, rows) -> None:
    path = tmp_path / "part1_test.bin"
    write_features(path, rows)
    assert path.stat().st_size == 30 * 8 * 4
    assert path.read_bytes()[:4] == np.float32(rows[0, 0]).astype("<f4").tobytes()
    assert np.array_equal(read_features(path, 8), rows)


def test_labels_are_lines(tmp_path) -> None:
    path = tmp_path / "part1_test.meta"
    write_labels(path, np.array([3, 0, -1]))
    assert path.read_text() == "3\n0\n-1\n"
    assert read_labels(path).tolist() == [3, 0, -1]


def test_neighbours_are_indices_and_distances(tmp_path, rows) -> None:
    path, near = tmp_path / "faiss_k_80.npz", neighbours(rows, 5)
    write_neighbours(path, near)
    data = np.load(path)["data"]
    assert data.shape == (30, 2, 5)
    assert np.array_equal(data[:, 0, 0], np.arange(30))
    assert np.allclose(data[:, 1], 1 - near.similarities)
    again = read_neighbours(path)
    assert np.array_equal(again.indices, near.indices)
    assert np.allclose(again.similarities, near.similarities, atol=1e-6)


def test_damage_is_named(tmp_path, rows) -> None:
    path = tmp_path / "file"
    with pytest.raises(DataError, match="file"):
        read_features(path, 8)
    write_features(path, rows)
    with pytest.raises(DataError, match="960 bytes are not rows of 7"):
        read_features(path, 7)
    path.write_text("1\nAlice\n")
    with pytest.raises(DataError, match="one integer identity per line"):
        read_labels(path)
    with pytest.raises(DataError, match=r"data \(n, 2, k\)"):
        read_neighbours(path)
    with path.open("wb") as file:
        np.savez(file, data=np.full((3, 2, 2), 7.0, np.float32))
    with pytest.raises(DataError, match="out of range"):
        read_neighbours(path)


ORIGINAL = """# general
seed: 42
work_dir: "./save/Ours"

dataset_args:
  feature_path: "ms1m/features/part0_train.bin"
  feature_dim: &feature_dim 256
  model_topk: &model_topk 80

test_dataset_name: "ms1m"
test_dataset_args:
  feature_path: "ms1m/features/part1_test.bin"
  label_path: "ms1m/labels/part1_test.meta"  # true ones
  feature_dim: *feature_dim
  model_topk: *model_topk
  knn_path: './save/knns/ms1m/part1_test/faiss_k_80.npz'
  is_norm_feat: True

cluster_args:
  tau_start: 0.7
"""


def test_the_test_part_of_a_configuration_is_read_and_written(tmp_path) -> None:
    path = tmp_path / "part1.yaml"
    path.write_text(ORIGINAL)
    config = Config.read(path)
    assert config.features.as_posix() == "ms1m/features/part1_test.bin"
    assert config.labels.as_posix() == "ms1m/labels/part1_test.meta"
    assert config.neighbours.as_posix() == "save/knns/ms1m/part1_test/faiss_k_80.npz"
    assert (config.dimension, config.k) == (256, 80)
    config.write(tmp_path / "again.yaml")
    assert Config.read(tmp_path / "again.yaml") == config
    bare = Config(config.features, 128, None, None, 40)
    bare.write(path)
    assert Config.read(path) == bare


@pytest.mark.parametrize(
    "text", ["", "test_dataset_args:\n  feature_dim: 4\n", "- a list\n", "a: *nobody\n"]
)
def test_another_file_is_no_configuration(tmp_path, text) -> None:
    path = tmp_path / "part1.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match="feature_path and feature_dim"):
        Config.read(path)


def test_the_benchmark_files_give_scores(tmp_path) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(40), 15)
    rows = rng.standard_normal((40, 64))[truth] + 0.5 * rng.standard_normal((600, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    write_features(tmp_path / "f.bin", rows)
    write_labels(tmp_path / "f.meta", truth)
    write_neighbours(tmp_path / "k.npz", neighbours(rows, 80))
    config = Config(tmp_path / "f.bin", 64, tmp_path / "f.meta", tmp_path / "k.npz", 80)
    found, scores = cluster_features(config, output=tmp_path / "found.meta")
    assert len(found.labels) == 600
    assert scores["bcubed_f"] >= 0.97
    assert len((tmp_path / "found.meta").read_text().split()) == 600
    bare = Config(config.features, 64, None, None, 80)
    assert cluster_features(bare)[1] == {}
    again, _ = cluster_features(replace(bare, neighbours=tmp_path / "new" / "k.npz"))
    assert np.array_equal(again.labels, found.labels)
    made = np.load(tmp_path / "new" / "k.npz")["data"]
    given = np.load(tmp_path / "k.npz")["data"]
    assert np.array_equal(made[:, 0], given[:, 0])
    assert np.allclose(made[:, 1], given[:, 1], atol=1e-6)


def test_the_bench_scores_files(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(30), 8)
    rows = rng.standard_normal((30, 32))[truth] + 0.4 * rng.standard_normal((240, 32))
    write_features(tmp_path / "part1_test.bin", rows.astype(np.float32))
    write_labels(tmp_path / "part1_test.meta", truth)
    Config(Path("part1_test.bin"), 32, Path("part1_test.meta"), Path("k.npz"), 80).write(
        tmp_path / "part1.yaml"
    )
    monkeypatch.chdir(tmp_path)

    def asked(*words):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return figures(parser.parse_args(words))

    found = asked("--config", "part1.yaml", "--found", "found.meta")
    assert found["clustering.files.faces"] == 240
    assert found["clustering.files.bcubed_f"] > 0.9
    assert len((tmp_path / "found.meta").read_text().split()) == 240
    words = ["--bin", "part1_test.bin", "--dim", "32", "--labels", "part1_test.meta"]
    assert asked(*words, "--knn", "k.npz") == found
    with pytest.raises(DataError, match="one integer identity per line"):
        asked(*words[:-1], "nowhere")


@pytest.fixture
def parts(tmp_path, monkeypatch) -> Path:
    """A configuration of the original's form over two generated parts of other identities."""
    rng = np.random.default_rng(2)
    for part, people in (("part0_train", 40), ("part1_test", 30)):
        truth = np.repeat(np.arange(people), 8)
        rows = rng.standard_normal((people, 32))[truth]
        rows = rows + rng.uniform(0.3, 0.9, (len(truth), 1)) * rng.standard_normal(rows.shape)
        order = rng.permutation(len(truth))
        write_features(tmp_path / f"{part}.bin", rows[order].astype(np.float32))
        write_labels(tmp_path / f"{part}.meta", 7 + truth[order])
    text = ORIGINAL.replace("256", "32").replace("ms1m/features/", "").replace("ms1m/labels/", "")
    text = text.replace("  feature_dim: &", '  label_path: "part0_train.meta"\n  feature_dim: &')
    (tmp_path / "part1.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*words: str) -> dict[str, float | str | None]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return figures(parser.parse_args(words))


@pytest.mark.parametrize("first", ["two passes", "transformer, second pass"])
def test_an_edge_model_is_learned_from_the_training_part_and_kept(
    parts, monkeypatch, first
) -> None:
    similarity = pytest.importorskip("export.similarity")
    monkeypatch.setattr(similarity, "STEPS", 60)
    monkeypatch.setattr(similarity.neighbourhood, "STEPS", 40)
    monkeypatch.setattr(similarity, "SMALL", {8: 2, 25: 2})
    monkeypatch.setattr(similarity, "FIRSTS", {first: similarity.FIRSTS[first]})
    words = ["--config", "part1.yaml", "--edge-model", "edges.json"]
    found = asked(*words)
    assert found["clustering.files.trained.bcubed_f"] > 0.8
    model = EdgeModel.load("edges.json")
    assert isinstance(model.first, Transformer) == first.startswith("transformer")
    config = Config.read("part1.yaml")
    labels = cluster(read_features(config.features, 32), model=model).labels
    truth = read_labels(config.labels)
    assert found["clustering.files.trained.pairwise_f"] == pairwise(truth, labels).f
    assert cluster_features(replace(config, neighbours=None))[1]["nmi"] == pytest.approx(
        found["clustering.files.nmi"], abs=0.05
    )
    for file in ("part0_train.bin", "part0_train.meta"):
        (parts / file).unlink()
    assert asked(*words) == found  # the kept one is used, and the same comes out


def test_the_better_first_pass_is_kept(parts, monkeypatch) -> None:
    similarity = pytest.importorskip("export.similarity")
    monkeypatch.setattr(similarity, "STEPS", 30)
    monkeypatch.setattr(similarity, "SMALL", {25: 1})
    first = similarity.first_of
    both = {"one": first, "other": lambda of, seed: first(of, seed + 1)}
    monkeypatch.setattr(similarity, "FIRSTS", both)
    faces = labelled(Config.read("part1.yaml", TRAIN))
    chosen = {}
    for better in ("one", "other"):
        scores = [
            {0.4: {"given": 0.8}, 0.6: {"given": 0.9 if name == better else 0.7}} for name in both
        ]
        given = mock.Mock(side_effect=scores)
        monkeypatch.setattr(similarity, "scored", given)
        chosen[better] = similarity.of_part(faces)
        assert chosen[better].threshold == 0.6
    assert chosen["one"].text() != chosen["other"].text()
    monkeypatch.setattr(similarity, "FIRSTS", {"other": both["other"]})
    monkeypatch.setattr(similarity, "scored", lambda judge, of: scores[1])
    assert similarity.of_part(faces).text() == chosen["other"].text()


def test_methods_are_compared_by_name(parts) -> None:
    found = asked("--config", "part1.yaml", "--method", "ndde_tpdi")
    assert found["clustering.files.ndde_tpdi.bcubed_f"] > 0.3
    assert found["clustering.files.ndde_tpdi.parameter"] in METHODS["ndde_tpdi"][1]
    with pytest.raises(ArgumentError, match="no method nobody; one of"):
        asked("--config", "part1.yaml", "--method", "nobody")


def test_what_an_edge_model_needs_is_said(parts) -> None:
    with pytest.raises(ArgumentError, match="nothing to learn it from"):
        asked("--bin", "part1_test.bin", "--dim", "32", "--edge-model", "edges.json")
    (parts / "part0_train.meta").write_text("1\n2\n")
    with pytest.raises(DataError, match="2 labels for 320 rows"):
        asked("--config", "part1.yaml", "--edge-model", "edges.json")
    (parts / "edges.json").write_text("{}")
    with pytest.raises(ModelError, match="two-pass edge model"):
        asked("--config", "part1.yaml", "--edge-model", "edges.json")
