"""Reading the LFW protocol, and what the verification figures say of known embeddings."""

import numpy as np
import pytest

pytest.importorskip("cv2")

from bench.accuracy import folder_faces, grouped
from bench.embed import measure
from export.protocols.embedders import keyed
from export.protocols.lfw import lfw_pairs, verify

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
