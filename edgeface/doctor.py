"""What this machine offers: one check per thing that goes wrong at users'."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeface import models, runtime, score
from edgeface.errors import DependencyError, EdgefaceError

FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `state` is ok, note or bad."""

    name: str
    state: str
    detail: str


def checks() -> Iterator[Check]:
    """Every finding, in the order in which the pipeline would meet the trouble."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield Check("cpu", "ok", f"{os.cpu_count()} cores, {' '.join(cpu_flags()) or 'flags unknown'}")
    yield _kernel()
    for package in ("numpy", "hnswlib", "onnxruntime", "openvino"):
        yield _package(package)
    yield _opencv()
    yield Check("telemetry", "ok", "off: the runtimes look nothing up and write no file")
    yield from _auto()
    for file in models.card_files():
        try:
            card = models.load_card(file)
            yield Check(f"model {card.name}", "ok", f"{card.task}, sha256 {card.digest[:12]}")
        except EdgefaceError as error:
            yield Check(f"model {file.stem}", "bad", str(error))
    cameras = sorted(str(p) for p in Path("/dev").glob("video*"))
    yield Check(
        "cameras", "ok" if cameras else "note", " ".join(cameras) or "none under /dev/video*"
    )


def cpu_flags() -> list[str]:
    """The instruction sets that matter here, as Linux names them; empty where it does not tell."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    lines = [x for x in text.splitlines() if x.startswith(("flags", "Features"))]
    present = set(lines[0].split(":", 1)[1].split()) if lines else set()
    return [f for f in FLAGS if f in present]


def _auto() -> Iterator[Check]:
    """What `auto` means for the models that can be loaded, and why: a line per reason."""
    chosen: dict[runtime.Choice, list[str]] = {}
    for card in models.cards():
        chosen.setdefault(runtime.weigh(card), []).append(card.name)
    for choice, own in sorted(chosen.items(), key=lambda x: (x[0].runtime, x[0].reason)):
        state = "note" if "not installed" in choice.reason else "ok"
        detail = f"auto means {choice.runtime} for {', '.join(own)} ({choice.reason})"
        yield Check("runtime", state, detail)


def _kernel() -> Check:
    try:
        name = score.kernel()
    except EdgefaceError as error:
        return Check("kernel", "bad", str(error))
    state = "ok" if name not in {"numpy", "numba"} else "note"
    hint = (
        ""
        if state == "ok"
        else ": there was no C compiler when edgeface was installed, searching is slower; install "
        "gcc or clang, then: pip install --force-reinstall --no-cache-dir edgeface"
    )
    return Check("kernel", state, name + hint)


def _package(package: str) -> Check:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        optional = package in {"openvino", "hnswlib"}
        return Check(package, "note" if optional else "bad", "not installed")
    numbers = tuple(int(p) for p in version.split(".")[:2] if p.isdigit())
    arm = platform.machine().lower() in {"aarch64", "arm64"}
    if package == "onnxruntime" and arm and numbers < (1, 27):
        return Check(package, "bad", f"{version} leaks memory on ARM; install 1.27 or newer")
    return Check(package, "ok", version)


def _opencv() -> Check:
    try:
        from edgeface.opencv import cv2
    except DependencyError as error:
        return Check("opencv", "bad", str(error))
    builds = [
        n
        for n in (
            "opencv-python",
            "opencv-python-headless",
            "opencv-contrib-python",
            "opencv-contrib-python-headless",
        )
        if _installed(n)
    ]
    if len(builds) > 1:
        return Check("opencv", "bad", f"{' and '.join(builds)} overwrite each other; keep one")
    return Check("opencv", "ok", f"{cv2.__version__} ({builds[0] if builds else 'system'})")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
