"""What `doctor` says of a machine."""

from __future__ import annotations

import sys

import pytest

from edgeface import doctor, score
from edgeface.errors import KernelError


def found() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.checks()}


def test_a_sound_machine_has_nothing_bad() -> None:
    checks = found()
    assert [c.name for c in checks.values() if c.state == "bad"] == []
    assert "no file" in checks["telemetry"].detail


def test_the_runtime_of_every_model_comes_with_its_reason() -> None:
    told = [check.detail for check in doctor.checks() if check.name == "runtime"]
    assert any("onnxruntime for" in t and "detector" in t and "float32" in t for t in told)
    (int8,) = (t for t in told if "mobilefacenet-int8" in t)
    assert "INT8" in int8 or "OpenVINO" in int8


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_a_missing_compiler_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    monkeypatch.setattr(score, "kernel", lambda: kernel)
    check = found()["kernel"]
    assert check.state == "note"
    assert "no C compiler" in check.detail and "pip install" in check.detail


def test_a_kernel_that_cannot_run_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def forced() -> str:
        raise KernelError("neon cannot run here")

    monkeypatch.setattr(score, "kernel", forced)
    assert found()["kernel"] == doctor.Check("kernel", "bad", "neon cannot run here")


def test_without_opencv_doctor_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "edgeface.opencv", raising=False)
    checks = found()
    assert checks["opencv"].state == "bad"
    assert "edgeface[headless]" in checks["opencv"].detail
    assert "model detector" in checks
