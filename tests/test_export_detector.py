"""export.detector, export.scenes, export.detector_onnx: network, losses, pictures, ONNX file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
ort = pytest.importorskip("onnxruntime")

from export import scenes  # noqa: E402
from export.detector import (  # noqa: E402
    BOX_WEIGHT,
    CONFIDENT,
    EDGE_WEIGHT,
    FOCUS,
    LANDMARK_WEIGHT,
    Trainer,
    distillation_loss,
    learning_rate,
)
from export.networks.detector import STRIDES, FaceDetector  # noqa: E402

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings
WEIGHTS = Path(__file__).parents[1] / "edgeface" / "weights"


@pytest.fixture
def shared():
    """The folder of test data beside the project; absent it skips, or fails where required."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        if os.environ.get("EDGEFACE_REQUIRE_SHARED") == "1":
            pytest.fail(f"{path} is required by EDGEFACE_REQUIRE_SHARED=1 and absent")
        pytest.skip(f"{path} is absent")
    return path


def small_network(seed=0):
    """A narrow network whose batch norms have statistics worth folding."""
    torch.manual_seed(seed)
    model = FaceDetector(widths=(4, 4, 8, 8, 8), depths=(1, 0, 1), neck=8)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def random_maps(seed, *, scores):
    """Maps of a 64×64 input with plausible boxes; channel 0 uniform scores or normal logits."""
    rng = np.random.default_rng(seed)
    maps = []
    for stride in STRIDES:
        m = rng.normal(0, 0.5, (2, 15, 64 // stride, 64 // stride))
        m[:, 0] = rng.uniform(0, 1, m[:, 0].shape) if scores else rng.normal(0, 1, m[:, 0].shape)
        maps.append(m)
    return maps


def tensors(maps):
    return [torch.from_numpy(m) for m in maps]


def loss_oracle(student, teacher):
    """The distillation loss cell by cell in plain Python floats."""
    score = box = landmark = mass = 0.0
    cells = []
    for ours, theirs in zip(student, teacher, strict=True):
        for n in range(ours.shape[0]):
            for row in range(ours.shape[2]):
                for column in range(ours.shape[3]):
                    cells.append((ours[n, :, row, column], theirs[n, :, row, column]))
    mass = max(sum(t[0] for _, t in cells if t[0] > CONFIDENT), 1.0)
    for s, t in cells:
        p = 1 / (1 + np.exp(-s[0]))
        entropy = -(t[0] * np.log(p) + (1 - t[0]) * np.log(1 - p))
        score += abs(t[0] - p) ** FOCUS * entropy / mass
        if t[0] > CONFIDENT:
            a, b = (
                [*(v[1:3] - np.exp(v[3:5]) / 2), *(v[1:3] + np.exp(v[3:5]) / 2)] for v in (s, t)
            )
            w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
            h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            area_a, area_b = ((v[2] - v[0]) * (v[3] - v[1]) for v in (a, b))
            size = np.sqrt(area_b)
            edge = np.mean(np.abs(np.subtract(a, b))) / size
            iou = w * h / (area_a + area_b - w * h)
            box += t[0] / mass * (BOX_WEIGHT * (1 - iou) + EDGE_WEIGHT * edge)
            landmark += t[0] / mass * LANDMARK_WEIGHT * np.mean(np.abs(s[5:] - t[5:])) / size
    return score, box, landmark


def test_the_loss_equals_its_written_out_form():
    student, teacher = random_maps(1, scores=False), random_maps(2, scores=True)
    got = distillation_loss(tuple(tensors(student)), tensors(teacher))
    wanted = loss_oracle(student, teacher)
    np.testing.assert_allclose(
        [got.score.item(), got.box.item(), got.landmark.item()], wanted, rtol=1e-6
    )


def test_box_and_landmark_gradients_are_right():
    teacher = [m[:1, :, :2, :2] for m in tensors(random_maps(3, scores=True))]
    student = [
        m[:1, :, :2, :2].clone().requires_grad_() for m in tensors(random_maps(4, scores=False))
    ]

    def loss(*maps):
        parts = distillation_loss(maps, teacher)
        return parts.box + parts.landmark

    assert torch.autograd.gradcheck(loss, student, eps=1e-7, atol=1e-5)


def test_the_score_gradient_points_to_the_teacher():
    teacher = tensors(random_maps(5, scores=True))
    student = [m.requires_grad_() for m in tensors(random_maps(6, scores=False))]
    distillation_loss(tuple(student), teacher).score.backward()
    for ours, theirs in zip(student, teacher, strict=True):
        gap = ours[:, 0].detach().sigmoid() - theirs[:, 0]
        assert (torch.sign(ours.grad[:, 0]) == torch.sign(gap)).all()


def test_a_perfect_student_and_an_empty_picture_cost_nothing():
    teacher = tensors(random_maps(7, scores=True))
    student = [m.clone() for m in teacher]
    for m in student:
        m[:, 0] = torch.logit(m[:, 0])
    assert distillation_loss(tuple(student), teacher).total.item() == pytest.approx(0, abs=1e-9)
    for m, n in zip(student, teacher, strict=True):
        m[:, 0], n[:, 0] = -40.0, 0.0
    assert distillation_loss(tuple(student), teacher).total.item() == pytest.approx(0, abs=1e-9)


def test_the_learning_rate_rises_holds_and_ends_at_zero():
    rates = [learning_rate(step, 1000, 1.0, warmup=100) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100] == rates[640] == 1.0
    assert rates[1000] == 0.0
    assert all(a >= b for a, b in zip(rates[650:], rates[651:], strict=False))


def test_the_network_has_the_grid_of_its_strides():
    maps = small_network()(torch.zeros(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 15, 64 // s, 96 // s) for s in STRIDES]


def test_folding_changes_nothing():
    model = small_network()
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        before = model(image)
        after = model.fuse()(image)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def pictures(n, size, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(n)]


def sampler(size=96):
    found = [
        scenes.Scene(image, np.array([[20, 10, 60, 70]], np.float32)[:k], np.ones(k, bool))
        for k, image in enumerate(pictures(2, (80, 120)))
    ]
    return scenes.SceneSampler(
        found, pictures(2, (50, 70), 1), pictures(2, (112, 112), 2), size=size
    )


def test_pictures_have_the_asked_size_and_follow_from_the_seed():
    source = sampler()
    for seed in range(30):
        a, b = (source.sample(np.random.default_rng(seed)) for _ in range(2))
        assert (a.shape, a.dtype) == ((96, 96, 3), np.uint8)
        np.testing.assert_array_equal(a, b)
        rng = np.random.default_rng(seed)
        finished = scenes.degrade(scenes.recolour(a, rng), rng)
        assert (finished.shape, finished.dtype) == (a.shape, a.dtype)


def test_a_scene_crop_shows_the_face_it_aims_at():
    image = np.zeros((200, 300, 3), np.uint8)
    image[80:120, 180:220] = 255  # the only face is the only light
    scene = scenes.Scene(image, np.array([[180, 80, 220, 120]], np.float32), np.ones(1, bool))
    source = scenes.SceneSampler(
        [scene], [np.zeros((40, 40, 3), np.uint8)], [np.zeros((112, 112, 3), np.uint8)], size=96
    )
    for seed in range(40):
        rng = np.random.default_rng(seed)
        picture = source._warp(image, np.array([200.0, 100.0]), np.array([30.0, 60.0]), 0.5,
                               size=96, rng=rng)  # fmt: skip
        weight = (picture == 255).all(2)
        centre = np.argwhere(weight).mean(0)
        np.testing.assert_allclose(centre, [60, 30], atol=1.5)


def test_the_sampler_asks_for_pictures():
    with pytest.raises(ValueError, match="each hold a picture"):
        scenes.SceneSampler([], pictures(1, (8, 8)), pictures(1, (8, 8)))


def test_an_unreadable_picture_is_named(tmp_path):
    bad = tmp_path / "bad.webp"
    bad.write_text("no picture")
    with pytest.raises(ValueError, match=r"bad\.webp"):
        scenes.read(bad)


def test_splits_are_disjoint_and_the_last_lines_are_held_back(tmp_path):
    lines = [json.dumps({"file": str(k), "faces": []}) for k in range(450)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    train, dev, test = scenes.split(tmp_path / "a.jsonl")
    assert [r["file"] for r in train + dev + test] == [str(k) for k in range(450)]
    assert (len(train), len(dev), len(test)) == (50, 100, 300)


def test_resuming_continues_bit_for_bit(tmp_path):
    def steps(trainer, first, last):
        for step in range(first, last):
            rng = np.random.default_rng(step)
            images = torch.from_numpy(rng.uniform(0, 255, (2, 3, 64, 64)).astype(np.float32))
            wanted = [m.float() for m in tensors(random_maps(step, scores=True))]
            trainer.update(images, wanted, steps=10)
        return trainer

    whole = steps(Trainer(small_network(), lr=1e-3), 0, 4)
    steps(Trainer(small_network(), lr=1e-3), 0, 2).save(tmp_path / "d.pt")
    resumed = Trainer(small_network(seed=9), lr=1e-3)
    resumed.restore(tmp_path / "d.pt")
    steps(resumed, 2, 4)
    for net in ("model", "average"):
        a, b = getattr(whole, net).state_dict(), getattr(resumed, net).state_dict()
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.step == 4


def test_training_on_one_batch_lowers_the_loss():
    trainer = Trainer(small_network(), lr=0.2)  # the warm-up divides it by 5 and more
    images = torch.from_numpy(
        np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    )
    wanted = [m.float() for m in tensors(random_maps(0, scores=True))]
    losses = [trainer.update(images, wanted, steps=100).total.item() for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture(scope="module")
def exported():
    from export.detector_onnx import halve_weights, to_onnx

    model = small_network().fuse()
    return model, to_onnx(model), halve_weights


def test_the_onnx_file_is_the_network_at_any_batch_and_size(exported):
    model, proto, halve_weights = exported
    half = halve_weights(proto)
    kernels = [t for t in half.graph.initializer if len(t.dims) == 4]
    assert kernels and all(t.data_type == 10 for t in kernels)  # TensorProto.FLOAT16
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 32, 64), (2, 3, 96, 96)):
        image = rng.uniform(0, 255, shape).astype(np.float32)
        with torch.no_grad():
            wanted = [m.numpy() for m in model(torch.from_numpy(image))]
        for file, tolerance in ((proto, 1e-4), (half, 2e-2)):
            session = ort.InferenceSession(
                file.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            names = [o.name for o in session.get_outputs()]
            assert names == ["stride_8", "stride_16", "stride_32"]
            for a, b in zip(wanted, session.run(names, {"image": image}), strict=True):
                np.testing.assert_allclose(a, b, atol=tolerance)


def test_the_onnx_file_tells_nothing_of_the_machine_it_was_made_on(exported):
    _, proto, _ = exported
    assert str(Path(__file__).parents[1]).encode() not in proto.SerializeToString()


def test_the_shipped_detector_fits_its_card():
    blob = (WEIGHTS / "detector.onnx").read_bytes()
    card = json.loads((WEIGHTS / "detector.json").read_text())
    assert hashlib.sha256(blob).hexdigest() == card["sha256"]
    assert len(blob) == card["bytes"] <= 500_000
    assert 0 < card["threshold"]["value"] < 1
    assert card["training"]["teachers"] and card["license"]


def test_the_shipped_detector_finds_the_people_of_a_clip(shared):
    from edgeface.detect import Detector

    capture = cv2.VideoCapture(str(shared / "data" / "video" / "short_hamilton_clip.mp4"))
    _, frame = capture.read()
    faces = Detector.load(runtime="onnxruntime", threads=1)(np.asarray(frame, np.uint8))
    assert faces
    for face in faces:
        inside = (face.landmarks > face.box[:2]) & (face.landmarks < face.box[2:])
        assert inside.all()
