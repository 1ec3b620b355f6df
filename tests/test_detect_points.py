"""edgeface.detect.points, export.detector_points: landmarks read from the inner maps."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from edgeface.detect import Detector
from edgeface.detect.points import STRIDES, UNIT, Cascade, sample
from edgeface.errors import ModelError
from edgeface.models import WEIGHTS, load_card


def maps(rng, channels=3, side=64):
    return {
        f"near_{s}": rng.normal(size=(1, channels, side // s, side // s)).astype(np.float32)
        for s in STRIDES
    }


def test_a_point_in_the_middle_of_a_cell_reads_that_cell():
    grids = maps(np.random.default_rng(0))
    places = np.array([[20, 12], [60, 60], [4, 4], [36, 28], [12, 44]], np.float32)  # of stride 8
    got = sample(grids, places)
    assert got.shape == (2 * 5 * 3,)
    cells = places.astype(int) // 8
    wanted = grids["near_8"][0][:, cells[:, 1], cells[:, 0]].T
    wanted[1] = got[3:6]  # the last cell is never read beyond its middle
    np.testing.assert_allclose(got[:15].reshape(5, 3), wanted, atol=1e-5)


def test_between_cells_the_reading_is_bilinear():
    grids = maps(np.random.default_rng(1))
    column, row = np.meshgrid(np.arange(8), np.arange(8))
    grids["near_8"][0] = np.stack([column, row, column * 0 + 1]).astype(np.float32)
    places = np.random.default_rng(2).uniform(8, 48, (5, 2)).astype(np.float32)
    got = sample(grids, places)[:15].reshape(5, 3)
    np.testing.assert_allclose(got[:, :2], places / 8 - 0.5, atol=1e-4)


def test_points_outside_the_map_read_its_border():
    got = sample(maps(np.random.default_rng(3)), np.float32([[-500, 9e3]] * 5))
    assert np.isfinite(got).all()


def test_rules_move_the_points_one_after_the_other():
    grids = maps(np.random.default_rng(4))
    weights = np.zeros((2, 30, 10), np.float32)
    biases = np.zeros((2, 10), np.float32)
    biases[0], biases[1, ::2] = 0.5, 0.25
    start = np.full((5, 2), 20, np.float32)
    moved = Cascade(weights, biases)(grids, start)
    np.testing.assert_allclose(moved - start, [[0.75 * UNIT, 0.5 * UNIT]] * 5)


def test_rules_of_another_network_are_refused(tmp_path):
    for suffix in (".onnx", ".json", ".points.npz"):
        shutil.copy(WEIGHTS / f"detector{suffix}", tmp_path / f"detector{suffix}")
    card = load_card(tmp_path / "detector.onnx", "detection")
    assert Cascade.beside(card.path, card.digest) is not None
    with pytest.raises(ModelError, match="another network"):
        Cascade.beside(card.path, "0" * 64)
    (tmp_path / "detector.points.npz").write_bytes(b"no rules")
    with pytest.raises(ModelError, match="no rules"):
        Cascade.beside(card.path, card.digest)
    (tmp_path / "detector.points.npz").unlink()
    assert Cascade.beside(card.path, card.digest) is None


def test_the_shipped_rules_bring_shaken_points_together(sample):
    """However the first look erred, the closer look finds nearly the same points."""
    image = cv2.imread(str(sample / "eileen.jpg"))
    detector = Detector.load(runtime="onnxruntime", threads=1)
    face = detector.search(image)[0]
    eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
    rng = np.random.default_rng(0)
    spread = []
    for _ in range(8):
        from export.detector_points import shaken

        again = detector.refine(image, shaken(face.box, face.landmarks, rng))
        spread.append(np.linalg.norm(again.landmarks - face.landmarks, axis=1).mean() / eyes)
    assert np.median(spread) < 0.05


def test_the_fit_finds_a_rule_that_is_there():
    """Maps that show where each point is: the cascade learns to go there, on maps unseen too."""
    pytest.importorskip("torch", reason="export.scenes' users need the export extra")
    from export.detector_points import Look, error, fit

    rng = np.random.default_rng(0)
    column, row = np.meshgrid(np.arange(28), np.arange(28))
    looks = []
    for _ in range(400):
        true = rng.uniform(60, 160, (5, 2)).astype(np.float32)
        near = [np.stack([column * 8 + 4 - x, row * 8 + 4 - y]) for x, y in true]
        grid = np.concatenate(near)[None].astype(np.float32) / 100
        seen = true + rng.normal(0, 6, (5, 2)).astype(np.float32)
        looks.append(Look({"near_8": grid, "near_16": grid[:, :, ::2, ::2]}, seen, true))
    cascade = fit(looks[:300], steps=1, ridge=1e-4)
    assert error(looks[300:], cascade)[0] < 0.1 * error(looks[300:], None)[0]


def test_the_card_names_the_file_the_rules_belong_to():
    card = json.loads((WEIGHTS / "detector.json").read_text())
    with np.load(WEIGHTS / "detector.points.npz") as rules:
        assert str(rules["model"]) == card["sha256"]
        assert rules["weights"].dtype == np.float16
    assert (WEIGHTS / "detector.points.npz").stat().st_size < 100_000
