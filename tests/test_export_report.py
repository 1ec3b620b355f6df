"""The report's table, text and picture from given documents, and what goes into the cards."""

import json

import pytest
from conftest import write_model

pytest.importorskip("matplotlib")

from export import compare, report

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


def test_embedders_measured_apart_are_one_table(tmp_path, capsys):
    machine = {"cpu": "a processor", "cores": 2}
    figures = {
        "a": {"v2.lfw.fp16": 98.5, "v2.lfw311.fp16.nmi": 0.99, "v2.test105.fp16.ari": 0.95},
        "b": {"peer.lfw.int8": 96.0, "peer.lfw_std.int8": 0.5},
    }
    for name, values in figures.items():
        document = {"bench": "accuracy", "machine": machine, "commit": name, "figures": values}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    (tmp_path / "v2.onnx").write_bytes(bytes(2_310_000))
    for part in ("xml", "bin"):
        (tmp_path / f"peer.{part}").write_bytes(bytes(500_000))
    words = [f"v2.fp16={tmp_path}/v2.onnx", f"peer.int8={tmp_path}/peer.xml", "--from",
             str(tmp_path / "a.json"), str(tmp_path / "b.json"),
             "--out", str(tmp_path / "out" / "both.md")]  # fmt: skip
    assert compare.main(words) == 0
    text = (tmp_path / "out" / "both.md").read_text()
    assert "| v2.fp16 | 2.31 | 98.50 | – | – | 0.9900 | – | – | – | 0.9500 | – |" in text
    assert "| peer.int8 | 1.00 | 96.00 | 0.50 |" in text
    assert "commit a, b, a processor" in text
    table = json.loads((tmp_path / "out" / "both.json").read_text())["table"]
    assert [row["LFW %"] for row in table] == [98.5, 96.0]
    assert compare.main([*words[:3], str(tmp_path / "a.json"), *words[-2:]]) == 1
    assert "no document holds figures of peer.int8" in capsys.readouterr().err
    assert compare.main(["x=nowhere.onnx", *words[2:]]) == 2
