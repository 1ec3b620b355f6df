"""What edgeface weighs: models by precision, wheel, installation, start and memory.

The wheel is built from the checkout and installed with its dependencies and OpenCV without windows
(`edgeface[headless]`) into a new environment; start and memory are those of the command installed
there, run in another folder. MB are 10^6 bytes of files, resident memory 2^20.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from bench.pipeline import ROOT, cold
from bench.pipeline_clips import clips
from edgeface.models import cards

Figures = dict[str, float | str | None]
LARGEST = 8  # packages named one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often to start."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wheel", type=Path, help="measure this one, build none")


def weigh(*paths: Path) -> float:
    """MB of files and of all files in folders."""
    files = [f for p in paths for f in (p.rglob("*") if p.is_dir() else [p])]
    return sum(f.stat().st_size for f in files if f.is_file() and not f.is_symlink()) / 1e6


def models(shared: Path) -> Figures:
    """MB and precision of each shipped model, and the original project's beside them."""
    out: Figures = {}
    for card in cards():
        out[f"size.model_mb.{card.name}"] = weigh(card.path)
        out[f"size.model_precision.{card.name}"] = str(card.about.get("precision"))
    folder = shared / "models" / "peers"
    for name in ("original_mobilefacenet", "original_mobilefacenetv2"):
        files = {
            "fp32": ["optim.onnx"],
            "fp16": ["openvino_fp16/optim.bin", "openvino_fp16/optim.xml"],
            "int8": ["openvino_ptq/quantized_model.bin", "openvino_ptq/quantized_model.xml"],
        }
        for precision, parts in files.items():
            found = [folder / name / part for part in parts if (folder / name / part).is_file()]
            out[f"size.model_mb.{name}.{precision}"] = weigh(*found) if found else None
    if not folder.is_dir():
        print("size: the original's models are not here: shared is missing", file=sys.stderr)
    return out


def install(wheel: Path | None, folder: Path) -> tuple[Path, Path, set[str]]:
    """Build a wheel unless given and install it: the wheel, the new environment, and what was in
    its site-packages before."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    if wheel is None:
        subprocess.run([*pip, str(ROOT)], check=True)
        (wheel,) = folder.glob("edgeface-*.whl")
    home = folder / "venv"
    venv.create(home, with_pip=True)
    (packages,) = home.glob("lib/python*/site-packages")
    before = {p.name for p in packages.iterdir()}
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, f"{wheel.absolute()}[headless]"], check=True)
    return wheel, home, before


def requirements(home: Path) -> tuple[list[str], int]:
    """The direct dependencies of the installed edgeface, and how many packages came in all."""
    program = """
import importlib.metadata as m, json
names = {d.name for d in m.distributions()} - {"pip", "setuptools", "edgeface"}
direct = [r for r in m.requires("edgeface") if "extra ==" not in r]
print(json.dumps([direct, len(names)]))
"""
    done = subprocess.run(
        [home / "bin" / "python", "-c", program], stdout=subprocess.PIPE, text=True, check=True
    )
    direct, number = json.loads(done.stdout)
    return direct, number


def figures(args: argparse.Namespace) -> Figures:
    """Figures under `size.`."""
    out = models(args.shared)
    (sample,) = clips(Path("/nowhere"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, home, before = install(args.wheel, folder)
        out["size.wheel_mb"], out["size.wheel"] = weigh(wheel), wheel.name
        (packages,) = home.glob("lib/python*/site-packages")
        new = [p for p in packages.iterdir() if p.name not in before]
        out["size.installed_mb"] = weigh(*new)
        out["size.installed_mb.edgeface"] = weigh(packages / "edgeface")
        heavy = sorted(new, key=weigh, reverse=True)[:LARGEST]
        out |= {f"size.installed_mb.{p.name}": weigh(p) for p in heavy if p.name != "edgeface"}
        direct, number = requirements(home)
        out["size.dependencies"] = ", ".join(direct)
        out["size.direct_dependencies"] = float(len(direct))
        out["size.packages"] = float(number)
        os.chdir(folder)  # so that the checkout is not what is imported
        gallery, edgeface = folder / "size.gallery", [str(home / "bin" / "edgeface")]
        enrol = [*edgeface, "enroll", str(gallery), "eileen", str(sample.people[0])]
        subprocess.run(enrol, check=True, stdout=subprocess.DEVNULL)
        starts = [
            cold(edgeface, sample, gallery, "onnxruntime", args.threads)
            for _ in range(1 if args.quick else args.rounds)
        ]
        os.chdir(ROOT)
    out["size.cold_start_s"] = statistics.median(s for s, _ in starts)
    out["size.cold_start_spread_s"] = max(s for s, _ in starts) - min(s for s, _ in starts)
    out["size.rss_mb"] = statistics.median(m for _, m in starts)
    return out
