"""Distillation end to end on a tiny teacher: learns, resumes to the bit, exports."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from tiny_network import TINY  # noqa: E402

from export import distil, distil_blocks, teachers  # noqa: E402
from export.data import list_crops, pack  # noqa: E402
from export.networks import mobilefacenet  # noqa: E402
from export.to_onnx import load_network, to_onnx  # noqa: E402

# Tensor of the teacher's graph at the end of each block.
TENSORS = {
    "stem": "stem.1.prelu",
    **{f"down{i}": f"down{i}.project.conv" for i in (1, 2, 3)},
    **{f"res{i}_0": f"res{i}_0.sum" for i in (1, 2, 3)},
    "head": "head.raw",
}


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setitem(mobilefacenet.SPECS, "tiny", TINY)
    monkeypatch.setitem(teachers.BOUNDARIES, "tiny_teacher", TENSORS)
    monkeypatch.setitem(teachers.INPUTS, "tiny_teacher", (0.0, 1.0))
    torch.manual_seed(9)
    network = mobilefacenet.build("tiny")
    rng = np.random.default_rng(4)
    (tmp_path / "crops").mkdir()
    for i in range(60):
        small = rng.integers(0, 256, (7, 7, 3), np.uint8)
        cv2.imwrite(
            str(tmp_path / "crops" / f"{i:02}.png"), np.kron(small, np.ones((16, 16, 1), "u1"))
        )
    pack(list_crops(tmp_path / "crops", set()), tmp_path / "pack")
    images = np.load(tmp_path / "pack.npy")
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.from_numpy(teachers.to_input(images[:30])))
    onnx.save(to_onnx(network, native_prelu=True), str(tmp_path / "tiny_teacher.onnx"))
    return tmp_path


def run(workshop, phase, out, steps, *more):
    return distil.main(
        [phase, "--pack", str(workshop / "pack"), "--teacher", str(workshop / "tiny_teacher.onnx"),
         "--network", "tiny", "--out", str(workshop / out), "--steps", str(steps), "--batch", "8",
         "--report", "5", "--save-every", "0", *more]
    )  # fmt: skip


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_blocks_then_end_learn_the_teacher(workshop):
    assert run(workshop, "blocks", "b", 60, "--rate", "1e-2") == 0
    log = lines(workshop / "b" / "blocks.jsonl")
    assert log[-1]["mean"] < 0.7 * log[0]["mean"]
    init = str(workshop / "b" / "blocks.pt")
    guides = ["--init", init, "--guides", "res1_0,res3_0", "--average", "0.9"]
    assert run(workshop, "end", "e", 40, *guides) == 0
    log = lines(workshop / "e" / "end.jsonl")
    assert log[-1]["cosine"] < log[0]["cosine"]
    network, about = load_network(workshop / "e" / "end.pt")
    assert about["step"] == 40
    onnx.checker.check_model(to_onnx(network, half=True))


def test_clean_targets_of_two_teachers_are_aimed_at(workshop):
    (workshop / "second.onnx").write_bytes((workshop / "tiny_teacher.onnx").read_bytes())
    pair = [str(workshop / "tiny_teacher.onnx"), str(workshop / "second.onnx")]
    assert run(workshop, "end", "c", 30, "--guides", "", "--clean", *pair) == 2  # not cached yet
    assert teachers.main(["--pack", str(workshop / "pack"), "--teacher", *pair]) == 0
    cached = np.load(workshop / "pack.tiny_teacher.npy").astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(cached, axis=1), 1.0, atol=2e-3)
    assert run(workshop, "end", "c", 30, "--guides", "", "--clean", *pair) == 0
    log = lines(workshop / "c" / "end.jsonl")
    assert {"cosine", "live", "cosine1"} <= log[-1].keys()
    assert log[-1]["structure"] < log[0]["structure"]
    assert log[-1]["structure1"] < log[0]["structure1"]


def test_resumed_run_equals_an_uninterrupted_one(workshop, monkeypatch):
    monkeypatch.setattr(distil_blocks, "cosine_rate", lambda step, steps, peak, warm=0: peak)
    assert run(workshop, "blocks", "whole", 6) == 0
    assert run(workshop, "blocks", "parts", 3) == 0
    assert run(workshop, "blocks", "parts", 6, "--resume") == 0
    whole = torch.load(workshop / "whole" / "blocks.pt", weights_only=True)["student"]
    parts = torch.load(workshop / "parts" / "blocks.pt", weights_only=True)["student"]
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_a_teacher_of_another_topology_is_refused(workshop, capsys):
    (workshop / "tiny_teacher.onnx").rename(workshop / "other.onnx")
    args = ["blocks", "--pack", str(workshop / "pack"), "--network", "tiny", "--out", "x"]
    assert distil.main([*args, "--teacher", str(workshop / "other.onnx")]) == 2
    assert "no tensors of other known" in capsys.readouterr().err


def test_a_missing_teacher_is_named(workshop, capsys):
    args = ["end", "--pack", str(workshop / "pack"), "--network", "tiny", "--out", "x"]
    assert distil.main([*args, "--teacher", str(workshop / "absent.onnx")]) == 2
    assert "absent.onnx" in capsys.readouterr().err
