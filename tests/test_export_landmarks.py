"""export.landmarks and its neighbours: labels, patches, training, and the file of the network."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
ort = pytest.importorskip("onnxruntime")

from edgeface.alignment import TEMPLATE  # noqa: E402
from edgeface.detect import pose  # noqa: E402
from edgeface.detect.landmarks import EYES, SIDE  # noqa: E402
from export.detector_labels import MIRRORED, Opinion  # noqa: E402
from export.landmarks import Trainer, batches, learning_rate, loss, read_points  # noqa: E402
from export.landmarks_data import Sampler, View, crop_views, cut, rough, turned  # noqa: E402
from export.landmarks_labels import EDGE, MARGIN, agreed  # noqa: E402
from export.landmarks_onnx import to_onnx  # noqa: E402
from export.networks.landmarks import PointNetwork  # noqa: E402
from export.scenes import Picture  # noqa: E402

COLOURS = ((255, 60, 60), (60, 255, 60), (60, 60, 255), (255, 255, 60), (60, 255, 255))


def drawn(points, size=112):
    """A grey picture with a coloured dot at every point, read back by `dots`."""
    image = np.full((size, size, 3), 30, np.uint8)
    for colour, (x, y) in zip(COLOURS, points, strict=True):
        cv2.circle(image, (round(float(x) * 8), round(float(y) * 8)), 24, colour, -1, shift=3)
    return image


def dots(image):
    """Where the dots of `drawn` are; nan for one that cannot be seen."""
    out = []
    for colour in COLOURS:
        y, x = np.nonzero(np.abs(image.astype(int) - colour).max(2) < 60)
        out.append([x.mean(), y.mean()] if len(x) else [np.nan] * 2)
    return np.array(out)


def detector(offset=0.0, score=0.9):
    """Reads dots, as if pixels were counted from the edge of the first."""

    def see(image):
        points = dots(image)
        if np.isnan(points).any():
            return []
        if (points[0] > points[1])[0]:  # a mirrored face: left is what is left in the picture
            points = points[MIRRORED]
        return [
            Opinion(np.zeros(4, np.float32), (points + EDGE + offset).astype(np.float32), score)
        ]

    return see


def test_two_detectors_that_agree_label_a_crop_in_pixel_centres():
    points = TEMPLATE + np.random.default_rng(0).uniform(-3, 3, (5, 2)).astype(np.float32)
    found = agreed((detector(), detector()), drawn(points))
    np.testing.assert_allclose(found, points, atol=0.3)
    assert MARGIN == 40  # what both were found to need


def test_those_that_disagree_or_see_nothing_label_none():
    crop = drawn(TEMPLATE)
    assert agreed((detector(), detector(offset=8)), crop) is None
    assert agreed((detector(), detector(score=0.3)), crop) is None
    assert agreed((detector(), detector()), np.zeros_like(crop)) is None
    assert agreed((detector(), detector()), drawn(TEMPLATE + np.float32([25, 0]))) is None


def test_a_face_is_cut_from_a_large_picture_with_its_points():
    points = (TEMPLATE - 56) * 4 + [700, 500]
    image = np.full((1000, 1400, 3), 30, np.uint8)
    for colour, (x, y) in zip(COLOURS, points, strict=True):
        cv2.circle(image, (round(float(x)), round(float(y))), 12, colour, -1)
    view = cut(image, points)
    assert max(view.image.shape) < 300
    np.testing.assert_allclose(dots(view.image), view.points, atol=0.6)


@pytest.mark.parametrize("upright", [True, False])
def test_the_points_follow_the_patch(upright, monkeypatch):
    """However it is moved, bent and mirrored; the eye at the left of a patch is the left one."""
    points = TEMPLATE + np.float32(94)
    views = [View(drawn(points, 300), points)]  # so large that no border is reflected into a patch
    source = Sampler(views, views, [])
    monkeypatch.setattr("export.landmarks_data.disguise", lambda picture, rng: picture.image)
    seen = 0
    for seed in range(60):
        patch, points = source._face(views[0], np.random.default_rng(seed), upright=upright)
        assert patch.shape == (SIDE, SIDE, 3)
        there = dots(patch)
        mirrored = np.linalg.det(np.stack([there[1] - there[0], there[3] - there[0]])) < 0
        wanted = there[MIRRORED] if mirrored else there
        if np.isfinite(wanted).all() and (points > 3).all() and (points < SIDE - 4).all():
            # Clockwise from the left eye, as in any face that is not mirrored.
            np.testing.assert_allclose(points, wanted, atol=1.6)
            seen += mirrored + 1
    assert seen > 30


def test_rough_points_are_those_of_a_first_look():
    rng = np.random.default_rng(0)
    many = [rough(TEMPLATE, rng) for _ in range(500)]
    eyes = EYES / np.hypot(*pose.upright(TEMPLATE, SIDE, EYES)[:, 0])
    off = np.array([np.linalg.norm(m - TEMPLATE, axis=1).mean() for m in many]) / eyes
    assert 0.05 < np.median(off) < 0.2
    tilt = [abs(pose.roll(m) - pose.roll(TEMPLATE)) for m in many]
    assert np.quantile(tilt, 0.95) > 25
    np.testing.assert_allclose(turned(turned(TEMPLATE, 40), -40), TEMPLATE, atol=1e-4)


def source(rng):
    views = []
    for _ in range(12):
        points = TEMPLATE + rng.uniform(-4, 4, (5, 2)).astype(np.float32)
        views.append(View(drawn(points), points.astype(np.float32)))
    empty = np.zeros((0, 4), np.float32)
    noise = rng.integers(0, 256, (90, 120, 3), np.uint8)
    alarms = np.array([[10, 10, 60, 70]], np.float32)
    none = np.zeros((0, 5, 2), np.float32)
    pictures = [Picture(noise, empty, none, empty, a) for a in (empty, alarms)]
    return Sampler(views, views, pictures)


def test_training_lowers_the_loss_and_resuming_continues_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    drawn_from = source(rng)

    def steps(trainer, up_to, workers):
        for drawn in batches(drawn_from, 16, 0, range(trainer.step, up_to), workers):
            losses.append(trainer.update(drawn, steps=60))

    torch.set_num_threads(1)
    losses = []
    torch.manual_seed(0)
    whole = Trainer(lr=3e-3)
    steps(whole, 20, 0)
    whole.save(tmp_path / "landmarks.pt")
    steps(whole, 30, 0)
    resumed = Trainer(lr=3e-3)
    resumed.restore(tmp_path / "landmarks.pt")
    steps(resumed, 30, 1)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name
    faces = [f for _, f in losses]
    assert np.mean(faces[20:30]) < 0.8 * np.mean(faces[:5])


def test_the_loss_asks_no_points_of_what_is_no_face():
    answers, wanted = torch.zeros(2, 11), torch.full((2, 10), 7.0)
    points, _ = loss(answers, wanted, torch.tensor([0.0, 0.0]))
    assert points.item() == 0
    half, _ = loss(answers, wanted, torch.tensor([1.0, 0.0]))
    assert half.item() == pytest.approx(6.8)  # 7 less half of BEND


def test_the_learning_rate_rises_and_ends_at_zero():
    rates = [learning_rate(s, 1000, 1.0) for s in range(1001)]
    assert rates[0] < 0.01 and max(rates) > 0.9 and rates[-1] == pytest.approx(0)


def test_the_onnx_file_is_the_network_in_half_the_bytes():
    torch.manual_seed(0)
    network = PointNetwork()
    patches = torch.rand(8, 3, SIDE, SIDE) * 255
    for _ in range(3):
        network(patches)  # batch norms worth folding
    network.eval()
    with torch.no_grad():
        wanted = network(patches).numpy()
    proto = to_onnx(network.fuse())
    file = proto.SerializeToString()
    assert len(file) < 200_000
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    for n in (1, 8):
        points, face = session.run(["landmarks", "face"], {"image": patches[:n].numpy()})
        np.testing.assert_allclose(points, wanted[:n, :10], atol=0.1)
        np.testing.assert_allclose(face, wanted[:n, 10:], atol=0.05)
    assert b"/export" not in file and b".py" not in file


def test_reading_brings_points_back_to_the_picture():
    class Middle(torch.nn.Module):
        """Sees a face exactly where the patch was cut for one."""

        def forward(self, x):
            points = torch.from_numpy(pose.HEAD[:, :2] - pose.HEAD[:, :2].mean(0)) * EYES
            answer = (points + (SIDE - 1) / 2).flatten().float()
            return torch.cat([answer, torch.zeros(1)])[None].repeat(len(x), 1)

    head = (pose.HEAD[:, :2] * 40 + [60, 50]).astype(np.float32)
    seen = np.stack([head, turned(head, 30)])
    images = [np.zeros((112, 112, 3), np.uint8)] * 2
    np.testing.assert_allclose(read_points(Middle(), images, seen), seen, atol=0.02)


def test_labels_are_split_into_people_to_train_on_and_held_out_ones(tmp_path):
    images = np.zeros((50, 112, 112, 3), np.uint8)
    np.save(tmp_path / "pack.npy", images)
    names = [f"p{k // 2}" for k in range(50)]
    (tmp_path / "pack.tsv").write_text("".join(f"{n}\t{n}/{k}.webp\n" for k, n in enumerate(names)))
    labels = tmp_path / "labels.jsonl"
    lines = [{"number": k, "file": f"{n}/{k}.webp", "landmarks": TEMPLATE.tolist()}
             for k, n in enumerate(names)]  # fmt: skip
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    crops, held = crop_views(tmp_path / "pack", labels)
    assert len(crops) + len(held) == 50
    assert 2 <= len(held) <= 20
