"""The report's table, text and picture from given documents, and what goes into the cards."""

import json

import pytest
from conftest import write_model

pytest.importorskip("matplotlib")

from export import report

ACCURACY = {
    "lfw.int8": 98.9, "lfw_std.int8": 0.4, "tar_at_far1e-3.int8": 97.1, "lfw311.int8.nmi": 0.98,
    "lfw311.int8.ari": 0.97, "lfw311.int8.pairwise_f": 0.97, "cosine.int8.mean": 0.997,
    "original.int8.lfw": 97.1, "original.int8.tar_at_far1e-3": 76.0,
}  # fmt: skip
SPEED = {
    "speed.openvino.int8.b1.fps": 700.0, "speed.openvino.int8.b32.fps": 900.0,
    "original.speed.openvino.int8.b1.fps": 500.0, "original.speed.openvino.int8.b32.fps": 600.0,
    "size_mb.int8": 1.13, "size_mb.int8.openvino": 1.27,
}  # fmt: skip


@pytest.fixture
def measured(tmp_path, monkeypatch):
    machine = {"cpu": "a processor", "cores": 2, "onnxruntime": "1", "openvino": "2"}
    for name, figures in (("accuracy", ACCURACY), ("embed", SPEED), ("embed-2-threads", SPEED)):
        document = {"bench": name, "machine": machine, "commit": "abc", "figures": figures}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    monkeypatch.setattr(report, "WEIGHTS", tmp_path)
    write_model(tmp_path, "mobilefacenet-int8", b"", metrics={"held_out_tar_at_far_1e-4": 0.7})
    peer = tmp_path / "models" / "peers" / "original_mobilefacenet" / "openvino_ptq"
    peer.mkdir(parents=True)
    for name in ("quantized_model.xml", "quantized_model.bin"):
        (peer / name).write_bytes(b"0" * 800_000)
    return tmp_path


def test_the_report_holds_what_was_measured(measured):
    out = measured / "out"
    assert report.main(["--from", str(measured), "--shared", str(measured), "--out", str(out)]) == 0
    table = json.loads((out / "models.json").read_text())["table"]
    assert [(row["backbone"], row["precision"]) for row in table] == [
        ("MobileFaceNet", "int8"),
        ("the original's", "int8"),
    ]
    assert table[0]["size MB"] == 1.27
    assert table[1]["size MB"] == 1.6
    assert table[1]["LFW %"] == 97.1
    text = (out / "models.md").read_text()
    assert "| MobileFaceNet | int8 | openvino | 1.27 | 700 | 900 | 700 | 900 | 98.90 |" in text
    assert (out / "models.png").stat().st_size > 1000
    metrics = json.loads((measured / "mobilefacenet-int8.json").read_text())["metrics"]
    assert metrics["lfw_accuracy"] == 0.989
    assert metrics["lfw311_nmi"] == 0.98
    assert metrics["held_out_tar_at_far_1e-4"] == 0.7


def test_missing_documents_are_named(tmp_path, capsys):
    assert report.main(["--from", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "accuracy.json" in capsys.readouterr().err
