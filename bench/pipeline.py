"""The whole pipeline on a clip: frames per second by runtime, cold start, memory, correct names.

Runs are interleaved in one process and the median is printed; threads are stated per network.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import edgeface as ef
from edgeface import video

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "examples" / "sample"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--video", type=Path, default=SAMPLE / "clip.mp4")
    parser.add_argument("--people", type=Path, help="folder NAME/*.jpg or NAME.jpg to enrol")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)


def people(folder: Path | None) -> dict[str, list[Path]]:
    """Who is to be enrolled, by name."""
    if folder is None:
        return {"Eileen Collins": [SAMPLE / "eileen.jpg"]}
    return {
        p.stem: sorted(p.iterdir()) if p.is_dir() else [p]
        for p in sorted(folder.iterdir())
        if p.is_dir() or p.suffix.lower() in {".jpg", ".png", ".webp"}
    }


def run(app: ef.Identifier, frames: list[ef.Frame]) -> tuple[float, dict[str, set[int]]]:
    """Seconds for all frames, and the tracks each name was given to."""
    app.reset()
    named: dict[str, set[int]] = {}
    started = time.perf_counter()
    for frame in frames:
        for event in app.step(frame):
            if event.decision.name:
                named.setdefault(event.decision.name, set()).add(event.track)
    return time.perf_counter() - started, named


def peak_memory(pid: int, last: float) -> float:
    """Peak resident MB of a running process; `last` once it is gone. What the operating system says
    of a finished child would count this process's own pages, which the child began with."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return last
    found = [x.split()[1] for x in status.splitlines() if x.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else last


def cold(clip: Path, gallery: Path, runtime: str, threads: int) -> tuple[float, float]:
    """Seconds from start to the first name of `edgeface identify`, and its peak memory in MB."""
    command = [sys.executable, "-m", "edgeface.cli", "identify", "--video", str(clip), "-g"]
    command += [str(gallery), "--runtime", runtime, "--threads", str(threads), "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = peak = float("nan")
    with process.stdout:
        for line in process.stdout:
            if math.isnan(first) and json.loads(line)["event"] == "identified":
                first = time.perf_counter() - started
            peak = peak_memory(process.pid, peak)
    process.wait()
    return first, peak


def figures(args: argparse.Namespace) -> dict[str, float | str | None]:
    """Figures under `pipeline.WIDTHxHEIGHT.`."""
    frames = list(video.frames(args.video))
    if args.quick:
        frames = frames[:60]
    height, width = frames[0].image.shape[:2]
    runtimes = ["onnxruntime"]
    runtimes += ["openvino"] if importlib.util.find_spec("openvino") else []
    rounds = 1 if args.quick else args.rounds
    seconds: dict[str, list[float]] = {r: [] for r in runtimes}
    names: dict[str, dict[str, set[int]]] = {}
    starts: dict[str, list[tuple[float, float]]] = {r: [] for r in runtimes}
    with tempfile.TemporaryDirectory() as folder:
        apps = {}
        for runtime in runtimes:
            path = Path(folder) / f"{runtime}.gallery"
            apps[runtime] = ef.Identifier.open(path, runtime=runtime, threads=args.threads)
            for name, pictures in people(args.people).items():
                apps[runtime].enroll(name, pictures, policy="largest")
        for _ in range(rounds):
            for runtime, app in apps.items():
                spent, names[runtime] = run(app, frames)
                seconds[runtime].append(spent)
        for app in apps.values():
            app.gallery.close()
        for _ in range(rounds):
            for runtime in runtimes:
                gallery = Path(folder) / f"{runtime}.gallery"
                starts[runtime].append(cold(args.video, gallery, runtime, args.threads))
    key = f"pipeline.{width}x{height}"
    out: dict[str, float | str | None] = {f"{key}.frames": float(len(frames))}
    for runtime in runtimes:
        fps = [len(frames) / s for s in seconds[runtime]]
        out[f"{key}.fps.{runtime}"] = statistics.median(fps)
        out[f"{key}.fps_spread.{runtime}"] = max(fps) - min(fps)
        out[f"{key}.cold_start_s.{runtime}"] = statistics.median(s for s, _ in starts[runtime])
        out[f"{key}.rss_mb.{runtime}"] = statistics.median(m for _, m in starts[runtime])
        told = (f"{n} (track {', '.join(map(str, sorted(t)))})" for n, t in names[runtime].items())
        out[f"{key}.named.{runtime}"] = "; ".join(told)
    out[f"{key}.threads"] = float(args.threads)
    return out
