"""Reading the LFW protocol, and what the verification figures say of known embeddings."""

import argparse
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("openvino")

import cv2

from bench.accuracy import add_arguments, folder_faces, grouped, models
from bench.accuracy_people import OLDEST, Model, children, kin, passing, turned_tar
from bench.embed import measure
from edgeface.errors import EdgefaceError
from edgeface.metrics import tar_at_far, threshold_at_far
from edgeface.models import WEIGHTS
from export.data import hold_out, list_crops, open_pack, pack
from export.protocols.embedders import keyed
from export.protocols.families import People
from export.protocols.lfw import lfw_pairs, verify
from export.protocols.strangers import all_pairs

PAIRS = """2\t1
Ada_Lovelace\t1\t4
Ada_Lovelace\t2\tGrace_Hopper\t10
Grace_Hopper\t3\t5
Alan_Turing\t1\tGrace_Hopper\t2
"""


def test_pairs_file_gives_pictures_truth_and_fold(tmp_path):
    (tmp_path / "pairs.txt").write_text(PAIRS)
    assert lfw_pairs(tmp_path / "pairs.txt") == [
        ("Ada_Lovelace/Ada_Lovelace_0001", "Ada_Lovelace/Ada_Lovelace_0004", True, 0),
        ("Ada_Lovelace/Ada_Lovelace_0002", "Grace_Hopper/Grace_Hopper_0010", False, 0),
        ("Grace_Hopper/Grace_Hopper_0003", "Grace_Hopper/Grace_Hopper_0005", True, 1),
        ("Alan_Turing/Alan_Turing_0001", "Grace_Hopper/Grace_Hopper_0002", False, 1),
    ]
    assert len(lfw_pairs(tmp_path / "pairs.txt", folds=1)) == 2


def test_verify_is_perfect_on_orthogonal_people():
    embeddings = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 3]]
    index = np.array([[0, 1], [0, 4], [2, 3], [2, 5]])
    same = np.array([True, False, True, False])
    figures = verify(embeddings, index, same, np.array([0, 0, 1, 1]))
    assert figures == {"lfw": 100.0, "lfw_std": 0.0, "tar_at_far1e-3": 100.0, "eer": 0.0}


def test_measure_takes_turns_and_divides_by_the_batch():
    order: list[str] = []
    now = [0.0]

    def take(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    out = measure({"a": take("a", 0.5), "b": take("b", 2.0)}, 2, 3, lambda: now[0])
    assert out == {"a": 0.25, "b": 1.0}
    assert order == ["a", "b"] * 4


def test_keys_name_variant_data_and_precision():
    values = {"nmi": 0.9}
    assert keyed("lfw311", "int8", values) == {"lfw311.int8.nmi": 0.9}
    assert keyed("lfw311", "edge.int8", values) == {"edge.lfw311.int8.nmi": 0.9}
    assert keyed("", "edge.int8", {"lfw": 98.0}) == {"edge.lfw.int8": 98.0}
    assert keyed("", "original.fp32", {"lfw": 97.0}) == {"original.fp32.lfw": 97.0}


def test_people_with_too_few_pictures_are_left_out(tmp_path):
    cv2 = pytest.importorskip("cv2")
    for person, count in (("a", 1), ("b", 3), ("c", 2)):
        (tmp_path / person).mkdir()
        for i in range(count):
            cv2.imwrite(str(tmp_path / person / f"{i}.webp"), np.zeros((8, 8, 3), np.uint8))
    images, person = folder_faces(tmp_path, least=2)
    assert len(images) == 5
    assert list(person) == [0, 0, 0, 1, 1]


def test_grouping_perfect_embeddings_is_perfect():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 64))
    rows = np.repeat(centres, 8, axis=0) + rng.normal(size=(96, 64)) * 0.1
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    figures = grouped(rows, np.repeat(np.arange(12), 8))
    assert figures["nmi"] == pytest.approx(1.0)
    assert figures["pairwise_f"] == figures["fowlkes_mallows"] == pytest.approx(1.0)


def test_all_pairs_agree_with_every_pair_written_out(rng):
    person = rng.integers(0, 40, 1300)
    rows = rng.normal(size=(1300, 8)) + rng.normal(size=(40, 8))[person]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    a, b = np.triu_indices(1300, 1)
    cosine, same = (rows @ rows.T)[a, b], person[a] == person[b]
    found = all_pairs(rows, person, most=1e-3)
    assert found.impostors == (~same).sum()
    assert len(found.genuine) == same.sum()
    for far in (1e-3, 1e-4, 1e-5):
        assert found.tar(far) == pytest.approx(tar_at_far(cosine, same, far), abs=1e-4)
        assert found.threshold(far) == pytest.approx(threshold_at_far(cosine[~same], far), abs=1e-6)
    with pytest.raises(EdgefaceError, match="do not tell a threshold"):
        found.threshold(0.1)


def test_relatives_are_no_strangers():
    images = np.zeros((4, 1, 1, 3), np.uint8)
    people = People(images, person=np.array([0, 0, 1, 2]), family=np.array([0, 0, 0, 1]))
    a, b, same = people.pairs()
    assert [*zip(a, b, same, strict=True)] == [
        (0, 1, True),
        (0, 3, False),
        (1, 3, False),
        (2, 3, False),
    ]
    # The relative looks like one person's second picture, which must not cost anything.
    rows = np.array([[1, 0], [0.8, 0.6], [1, 0], [0, 1]], np.float32)
    assert people.tar(rows, rows) == {"tar1e-3": 1.0, "tar1e-4": 1.0}
    # Of the pairs with a turned head only the one of two pictures of one person is genuine.
    assert turned_tar(people, rows, np.array([np.nan, 20.0, 40.0, 0.0])) == 1.0


def test_only_pairs_apart_can_pass_wrongly():
    rows = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    apart = np.ones((3, 3), bool)
    assert passing(rows, apart, 0.5) == pytest.approx(1 / 3)
    apart[0, 1] = False
    assert passing(rows, apart, 0.5) == 0.0


def faces_folder(root: Path) -> Path:
    """Two files of families and one of ages, with their zips, in the layout of the data folder."""
    faces = root / "data" / "faces"
    faces.mkdir(parents=True)
    rng = np.random.default_rng(1)
    labels = [f"F{family:04d}_MID{one}" for family in range(1, 11) for one in (1, 2)]
    files = [f"{label}/{i}.webp" for label in labels for i in range(2 + (label[-1] == "1"))]
    ages = {f"{i}.webp": str(i) for i in range(20)}
    for name, names in (("fiw_families", files), ("aaf_asian_all_ages", [*ages])):
        with zipfile.ZipFile(faces / f"{name}.zip", "w") as archive:
            for file in names:
                crop = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
                archive.writestr(file, cv2.imencode(".webp", crop)[1].tobytes())
    table = "".join(f"{file},{Path(file).parent}\n" for file in files)
    (faces / "fiw_families.csv").write_text("file,label\n" + table)
    table = "".join(f"{file},{age}\n" for file, age in ages.items())
    (faces / "aaf_asian_all_ages.csv").write_text("file,age\n" + table)
    return faces


def test_held_out_families_are_those_of_the_pack_without_people_known_elsewhere(tmp_path):
    faces = faces_folder(tmp_path)
    (faces / "fiw_same_as_shared.csv").write_text("fiw,shared,cosine\n")
    assert pack(list_crops(faces / "fiw_families.zip", set()), tmp_path / "pack")
    data = open_pack(tmp_path / "pack")
    held = hold_out(data)
    crops, person, family = kin(faces)
    assert [f"fiw_families/{p}" for p in crops.paths] == [
        path for path, out in zip(data.paths, held, strict=True) if out
    ]
    assert len(np.unique(family)) == 2
    assert len(np.unique(person)) == 4
    assert crops.read().shape == (10, 112, 112, 3)
    known = Path(crops.paths[0]).parent
    (faces / "fiw_same_as_shared.csv").write_text(f"fiw,shared,cosine\n{known},celeba:1,0.9\n")
    left, _, _ = kin(faces)
    assert len(left.paths) == 10 - sum(path.startswith(f"{known}/") for path in crops.paths)


def test_embeddings_are_kept_by_file_and_pictures(tmp_path):
    faces = faces_folder(tmp_path)
    young = children(faces)
    assert len(young.paths) == OLDEST + 1
    calls = []

    def embed(images):
        calls.append(len(images))
        return np.ones((len(images), 3), np.float32)

    model = Model(embed, "digest.onnxruntime", None)
    first = young.rows("a", model, tmp_path / "cache")
    again = young.rows("b", model, tmp_path / "cache")
    assert calls == [len(first)]
    np.testing.assert_array_equal(first, again)
    young.rows("a", replace(model, stamp="other.onnxruntime"), tmp_path / "cache")
    replace(young, paths=young.paths[:-1]).rows("a", model, tmp_path / "cache")
    assert len(calls) == 3


def test_a_candidate_is_measured_beside_what_ships(tmp_path):
    weights = WEIGHTS / "mobilefacenet-edge.onnx"
    given = parser().parse_args(
        ["--shipped", "mobilefacenet-edge", "--embedder", f"new={weights}", "--threads", "1"]
    )
    found = models(given)
    assert set(found) == {"mobilefacenet-edge", "new"}
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    one, other = (model.embed(crops) for model in found.values())
    np.testing.assert_allclose(one, other, atol=1e-4)
    given.embedder = [f"mobilefacenet-edge={weights}"]
    with pytest.raises(EdgefaceError, match="two embedders are called mobilefacenet-edge"):
        models(given)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_arguments(made)
    return made
