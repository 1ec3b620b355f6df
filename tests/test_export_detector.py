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
from export.detector import Trainer, cached, learning_rate  # noqa: E402
from export.detector_labels import Opinion, agree, groups, several  # noqa: E402
from export.detector_loss import (  # noqa: E402
    BOX_WEIGHT,
    EDGE_WEIGHT,
    FOCUS,
    IGNORED,
    LANDMARK_WEIGHT,
    detection_loss,
    wanted,
)
from export.detector_onnx import keep  # noqa: E402
from export.detector_start import from_onnx, settle, starting  # noqa: E402
from export.disguise import disguise  # noqa: E402
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
    """Maps of a 64×64 input with plausible boxes; channel 0 labels or normal logits."""
    rng = np.random.default_rng(seed)
    maps = []
    for stride in STRIDES:
        m = rng.normal(0, 0.5, (2, 15, 64 // stride, 64 // stride))
        m[:, 0] = rng.normal(0, 1, m[:, 0].shape)
        if scores:  # a label: a third ignored, a third background, a third faces
            kind = rng.integers(3, size=m[:, 0].shape)
            m[:, 0] = np.where(kind == 0, IGNORED, (kind == 2).astype(float))
            m[:, 5:][:, :, rng.random(m[0, 0].shape) < 0.2] = np.nan
        maps.append(m)
    return maps


def tensors(maps):
    return [torch.from_numpy(m) for m in maps]


def loss_oracle(student, labels):
    """The loss cell by cell in plain Python floats."""
    score = box = landmark = mass = 0.0
    cells = []
    for ours, theirs in zip(student, labels, strict=True):
        for n in range(ours.shape[0]):
            for row in range(ours.shape[2]):
                for column in range(ours.shape[3]):
                    cells.append((ours[n, :, row, column], theirs[n, :, row, column]))
    mass = max(sum(t[0] for _, t in cells if t[0] > 0), 1.0)
    for s, t in cells:
        if t[0] == IGNORED:
            continue
        p = 1 / (1 + np.exp(-s[0]))
        entropy = -(t[0] * np.log(p) + (1 - t[0]) * np.log(1 - p))
        score += abs(t[0] - p) ** FOCUS * entropy / mass
        if t[0] > 0:
            a, b = (
                [*(v[1:3] - np.exp(v[3:5]) / 2), *(v[1:3] + np.exp(v[3:5]) / 2)] for v in (s, t)
            )
            w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
            h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            area_a, area_b = ((v[2] - v[0]) * (v[3] - v[1]) for v in (a, b))
            size = np.sqrt(area_b)
            edge = np.mean(np.abs(np.subtract(a, b))) / size
            iou = w * h / (area_a + area_b - w * h)
            box += (BOX_WEIGHT * (1 - iou) + EDGE_WEIGHT * edge) / mass
            if np.isfinite(t[5:]).all():
                landmark += LANDMARK_WEIGHT * np.mean(np.abs(s[5:] - t[5:])) / size / mass
    return score, box, landmark


def test_the_loss_equals_its_written_out_form():
    student, labels = random_maps(1, scores=False), random_maps(2, scores=True)
    got = detection_loss(tuple(tensors(student)), tensors(labels))
    aim = loss_oracle(student, labels)
    np.testing.assert_allclose(
        [got.score.item(), got.box.item(), got.landmark.item()], aim, rtol=1e-6
    )
    assert all(value > 0 for value in aim)


def test_box_and_landmark_gradients_are_right():
    teacher = [m[:1, :, :2, :2] for m in tensors(random_maps(3, scores=True))]
    student = [
        m[:1, :, :2, :2].clone().requires_grad_() for m in tensors(random_maps(4, scores=False))
    ]

    def loss(*maps):
        parts = detection_loss(maps, teacher)
        return parts.box + parts.landmark

    assert torch.autograd.gradcheck(loss, student, eps=1e-7, atol=1e-5)


def test_the_score_gradient_points_to_the_label_and_ignored_cells_have_none():
    labels = tensors(random_maps(5, scores=True))
    student = [m.requires_grad_() for m in tensors(random_maps(6, scores=False))]
    detection_loss(tuple(student), labels).score.backward()
    for ours, theirs in zip(student, labels, strict=True):
        counts = theirs[:, 0] != IGNORED
        gap = ours[:, 0].detach().sigmoid() - theirs[:, 0]
        assert (torch.sign(ours.grad[:, 0]) == torch.sign(gap))[counts].all()
        assert (ours.grad[:, 0] == 0)[~counts].all()


def test_a_perfect_student_costs_nothing():
    labels = tensors(random_maps(7, scores=True))
    student = [m.nan_to_num() for m in labels]
    for m in student:
        m[:, 0] = torch.where(m[:, 0] > 0, 40.0, -40.0).double()
    assert detection_loss(tuple(student), labels).total.item() == pytest.approx(0, abs=1e-9)


def test_the_learning_rate_rises_holds_and_ends_at_zero():
    rates = [learning_rate(step, 1000, 1.0, warmup=100) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[100] == rates[390] == 1.0
    assert rates[1000] == 0.0
    assert all(a >= b for a, b in zip(rates[400:], rates[401:], strict=False))


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


FRONTAL = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def labelled(image, *boxes, alarms=()):
    faces = []
    for x1, y1, x2, y2 in boxes:
        points = FRONTAL * [x2 - x1, y2 - y1] + [x1, y1]
        faces.append({"box": [x1, y1, x2, y2], "landmarks": points.tolist()})
    return scenes.Picture.of(image, {"faces": faces, "alarms": list(alarms)})


def sampler(size=96):
    found = [
        labelled(image, *[(20, 10, 60, 70)][:k], alarms=[(70, 20, 100, 60)])
        for k, image in enumerate(pictures(2, (80, 120)))
    ]
    empty = [labelled(image) for image in pictures(2, (50, 70), 1)]
    crops = [labelled(image, (15, 5, 97, 110)) for image in pictures(2, (112, 112), 2)]
    return scenes.SceneSampler(found, empty, crops, size=size)


def test_pictures_have_the_asked_size_and_follow_from_the_seed():
    source = sampler()
    faces = 0
    for seed in range(60):
        a, b = (source.sample(np.random.default_rng(seed)) for _ in range(2))
        assert (a.image.shape, a.image.dtype) == ((96, 96, 3), np.uint8)
        for name in ("image", "boxes", "points", "ignore"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert len(a.boxes) == len(a.points)
        faces += len(a.boxes)
        rng = np.random.default_rng(seed)
        finished = scenes.degrade(scenes.recolour(disguise(a, rng), rng), rng)
        assert (finished.shape, finished.dtype) == (a.image.shape, a.image.dtype)
    assert faces > 30


def test_labels_follow_the_picture_through_every_warp():
    """Five coloured dots on grey are where the labels say, however the picture was turned."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    image = np.full((200, 300, 3), 128, np.uint8)
    face = labelled(image, (120, 40, 200, 150))
    for colour, point in zip(colours, face.points[0], strict=True):
        cv2.circle(image, tuple(round(float(v)) for v in point), 5, colour, -1)
    source = scenes.SceneSampler([face], [labelled(image[:30, :30])], [face], size=160)
    mirrored = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        centre, target = np.array([160.0, 95.0]), np.array([75.0, 85.0])
        grey = np.full((160, 160, 3), 128, np.uint8)
        ratio = rng.uniform(0.4, 1.1)
        out = source._warp(face, centre, target, ratio, size=160, rng=rng, around=grey)
        (points,) = out.points
        seen = []
        for colour in colours:
            y, x = np.nonzero(np.abs(out.image.astype(int) - colour).sum(2) < 150)
            seen.append([x.mean(), y.mean()])
        flipped = np.linalg.norm(points[0] - seen[1]) < np.linalg.norm(points[0] - seen[0])
        mirrored += flipped
        seen = np.array(seen)[scenes.MIRRORED if flipped else list(range(5))]
        np.testing.assert_allclose(points, seen, atol=2.0)
        x1, y1, x2, y2 = out.boxes[0]
        assert ((points > [x1 - 1, y1 - 1]) & (points < [x2 + 1, y2 + 1])).all()
    assert 10 < mirrored < 50


def test_a_face_mostly_outside_is_neither_asked_for_nor_denied():
    inside, outside = (20, 20, 60, 70), (85, 20, 125, 70)
    cut = labelled(np.zeros((100, 140, 3), np.uint8), inside, outside).cut(100, 100)
    assert cut.boxes.tolist() == [list(inside)]
    assert cut.ignore.tolist() == [list(outside)]
    maps = wanted(cut)
    assert maps[0][0, 5, 11] == IGNORED  # the cell at (92, 44) of the face cut off
    assert maps[0][0, 11, 1] == 0


@pytest.mark.parametrize("side", [20, 60, 110, 200])
def test_what_is_wanted_of_the_network_reads_back_as_the_face(side):
    from edgeface.detect.grid import decode

    picture = labelled(np.zeros((320, 320, 3), np.uint8), (60, 50, 60 + side, 50 + 1.2 * side))
    maps = wanted(picture)
    for m in maps:
        m[0] = np.where(m[0] > 0, 3.0, -3.0)
    grids = {f"stride_{s}": m[None] for s, m in zip(STRIDES, maps, strict=True)}
    found = decode(grids, 0.5, (320, 320))
    assert 2 <= len(found.scores) <= 40
    np.testing.assert_allclose(found.boxes, picture.boxes.repeat(len(found.boxes), 0), atol=1e-3)
    np.testing.assert_allclose(
        found.landmarks, picture.points.repeat(len(found.boxes), 0), atol=1e-3
    )


def opinion(x, score=0.9, shift=0.0):
    box = np.array([x, 10, x + 40, 60], np.float32)
    points = (FRONTAL * [40, 50] + [x + shift, 10]).astype(np.float32)
    return Opinion(box, points, score)


def test_two_of_three_detectors_make_a_face_and_one_alone_makes_nothing():
    label = agree([opinion(0), opinion(200)], [opinion(4), opinion(100)], [opinion(102)])
    faces = {round(f["box"][0]): f for f in label["faces"]}
    assert sorted(faces) == [2, 101]
    # YuNet's points are left out where another detector measured them, the others' averaged.
    np.testing.assert_allclose(faces[2]["landmarks"], opinion(4).points, atol=0.01)
    np.testing.assert_allclose(faces[101]["landmarks"], opinion(101).points, atol=0.01)
    assert [box[0] for box in label["ignore"]] == [200]


def test_points_that_two_detectors_place_apart_are_unknown():
    label = agree([], [opinion(0)], [opinion(0, shift=9)])
    assert label["faces"][0]["landmarks"] is None


def test_one_observer_has_one_opinion_of_a_face():
    (group,) = groups([[opinion(0, 0.9), opinion(2, 0.8)], [opinion(1, 0.7)]])
    assert {k: o.score for k, o in group.items()} == {0: 0.9, 1: 0.7}


def test_passes_at_other_scales_and_mirrored_are_brought_back():
    image = np.zeros((120, 240, 3), np.uint8)
    image[30:80, 60:100] = 255

    def detector(picture):
        y, x = np.nonzero(picture[..., 0] > 128)
        x1, y1, x2, y2 = x.min(), y.min(), x.max() + 1, y.max() + 1
        points = FRONTAL * [x2 - x1, y2 - y1] + [x1, y1]
        return [Opinion(np.float32([x1, y1, x2, y2]), np.float32(points), 0.9)]

    (face,) = several(detector, image, ((240, False), (240, True), (480, False), (120, True)))
    np.testing.assert_allclose(face.box, [60, 30, 100, 80], atol=0.6)
    np.testing.assert_allclose(face.points, FRONTAL * [40, 50] + [60, 30], atol=0.6)


def test_disguises_change_faces_and_nothing_else():
    image = np.full((200, 200, 3), 120, np.uint8)
    image[::2] = 160
    picture = labelled(image, (60, 50, 140, 150))
    changed = 0
    for seed in range(40):
        out = disguise(picture, np.random.default_rng(seed))
        difference = (out != image).any(2)
        changed += difference.any()
        assert not difference[:5].any() and not difference[:, :5].any()
    assert 8 < changed < 30


def test_the_sampler_asks_for_pictures():
    with pytest.raises(ValueError, match="each hold a picture"):
        scenes.SceneSampler([], [labelled(pictures(1, (8, 8))[0])], [])


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
            labels = [m.float() for m in tensors(random_maps(step, scores=True))]
            trainer.update((images,), labels, steps=10)
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
    labels = [m.float() for m in tensors(random_maps(0, scores=True))]
    losses = [trainer.update((images,), labels, steps=100).total.item() for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


def test_training_on_cached_maps_leaves_what_made_them_alone_and_equals_the_whole():
    model = small_network()
    images = torch.from_numpy(
        np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    )
    labels = [m.float() for m in tensors(random_maps(0, scores=True))]
    frozen = [model.stem, model.stages[0], model.stages[1]]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainer = Trainer(model, lr=0.2, frozen=frozen)
    draw = cached(model, [(images, labels)] * 3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        whole, parts = model.eval()(images), model.answer(*draw(0)[0])
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
    losses = [trainer.update(*draw(k), steps=100).total.item() for k in range(40)]
    assert losses[-1] < 0.9 * losses[0]
    after = model.state_dict()
    for name, value in before.items():
        held = name.startswith(("stem.", "stages.0.", "stages.1."))
        assert not held or torch.equal(value, after[name])
    assert not torch.equal(before["heads.0.weight"], after["heads.0.weight"])


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


def test_a_shipped_file_is_read_back_and_its_batch_norms_settle():
    model = from_onnx(WEIGHTS / "detector.onnx")
    session = ort.InferenceSession(
        str(WEIGHTS / "detector.onnx"), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (2, 3, 64, 96)).astype(np.float32)
    aim = session.run(["stride_8", "stride_16", "stride_32"], {"image": image})
    for _ in range(2):
        with torch.no_grad():
            got = model.eval()(torch.from_numpy(image))
        for a, b in zip(got, aim, strict=True):
            np.testing.assert_allclose(a.numpy(), b, atol=2e-3)
        settle(model, [torch.from_numpy(image)])
    with torch.no_grad():  # and a training step starts near what the file computes
        live = model.train()(torch.from_numpy(image))
    for a, b in zip(live, aim, strict=True):
        assert np.abs(a.numpy() - b).mean() < 0.2 * np.abs(b).mean() + 0.05


def test_a_later_training_starts_from_the_kept_checkpoint(tmp_path):
    file = Path(__file__).parents[1] / "export" / "checkpoints" / "detector.pt"
    assert file.stat().st_size < 2_000_000
    model = starting(file, []).eval()
    keep({"average": model.state_dict(), "step": 1, "batch": 2}, tmp_path / "again.pt")
    again = starting(tmp_path / "again.pt", []).eval()
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        for a, b in zip(model(image), again(image), strict=True):
            torch.testing.assert_close(a, b)
            assert a.isfinite().all()


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
