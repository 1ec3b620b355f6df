"""The whole pipeline on a clip beside what a user would pick instead, and how it starts.

Every system is a process of its own that enrols the people, then reads and names the clip once
(`bench/peers`). The systems take turns for some rounds; figures are medians over the rounds, ratios
medians of the ratios within a round. Decoding counts, loading and enrolling do not. A peer without
tracks is asked in each frame; `correct` and `wrong` count the names it gave, `faces` the boxes
shown. `fps_ratio_to_X` is the rate with ONNX Runtime, which every installation has, over X's;
`cpu_ratio_to_X` is X's processor time per frame over ours, which a busy machine changes least.
`idle.WIDTHxHEIGHT.cpu_ms` is the processor time of a frame of an empty room;
`clip.cpu_ratio_to_before` that of the sample clip over looking at all of every frame, as before
there was a gate, and `clip.1920x1080.cpu_ratio_to_before` in that size; `cameras4.cpu_share` is the
share of two cores that four cameras at 15 frames/s take, decoding too.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from bench import peers
from bench.pipeline_clips import Clip, clips, judge, scaled
from bench.pipeline_idle import SIZES, cameras, idle, saved
from bench.pipeline_stages import breakdown

Figures = dict[str, float | str | None]
OWN = "onnxruntime"  # the runtime whose figures carry the short keys
ROOT = Path(__file__).parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to run, and beside whom."""
    parser.add_argument(
        "--peers",
        nargs="?",
        type=Path,
        const=peers.FOLDER,
        help="run the peers, too; DIR holds the environments made by `python -m bench.peers DIR`",
    )
    parser.add_argument("--video", type=Path, help="a clip of your own instead")
    parser.add_argument("--people", type=Path, nargs="*", default=[], help="NAME.jpg to enrol")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[640, 1280])


@dataclass(frozen=True, slots=True)
class Entrant:
    """A system that takes part: how to call it."""

    name: str
    interpreter: Path
    script: str
    every: int
    variables: dict[str, str]
    options: tuple[str, ...] = ()


def entrants(args: argparse.Namespace) -> list[Entrant]:
    """This project by runtime, then the peers that are there."""
    home = {"PYTHONPATH": str(ROOT)}
    found = [
        Entrant(runtime, Path(sys.executable), "with_edgeface.py", 1, home, ("--runtime", runtime))
        for runtime in ("onnxruntime", "openvino")
        if importlib.util.find_spec(runtime)
    ]
    if args.peers is None:
        print("bench: no peers without --peers", file=sys.stderr)
        return found
    folder = args.peers.absolute()
    return found + [
        Entrant(p.name, peers.python(folder, p), p.script, p.every, dict(p.variables))
        for p in peers.PEERS
        if peers.ready(folder, p, args.shared)
    ]


def race(
    clip: Clip, found: list[Entrant], args: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Every entrant's answers, one per round, in turns."""
    answers: dict[str, list[dict[str, Any]]] = {e.name: [] for e in found}
    for turn in range(1 if args.quick else args.rounds):
        for entrant in found:
            print(f"pipeline: {clip.name}, round {turn + 1}, {entrant.name}", file=sys.stderr)
            options = ["--clip", clip.file, "--shared", args.shared, "--threads", args.threads]
            options += ["--every", entrant.every, "--offset", turn % entrant.every]
            options += ["--limit", 40 // entrant.every] if args.quick else []
            options += [*entrant.options, "--people", *clip.people]
            answers[entrant.name].append(
                peers.run(
                    entrant.interpreter,
                    entrant.script,
                    list(map(str, options)),
                    **entrant.variables,
                )
            )
    return answers


def compared(clip: Clip, answers: dict[str, list[dict[str, Any]]], width: int) -> Figures:
    """Rates, costs and names per system. Counts are of the whole clip: where only each n-th frame
    was looked at, they are scaled by the share of the frames."""
    out: Figures = {}
    rates = {n: [a["frames"] / a["seconds"] for a in runs] for n, runs in answers.items()}
    whole = max(a["frames"] for a in answers[OWN])
    for name, runs in answers.items():
        looked = sum(a["frames"] for a in runs)
        judged = [judge(clip, a["seen"], width) for a in runs]
        share = whole / looked
        out[f"fps.{name}"] = statistics.median(rates[name])
        out[f"fps_spread.{name}"] = max(rates[name]) - min(rates[name])
        used = [1000 * a["cpu_seconds"] / a["frames"] for a in runs]
        out[f"cpu_ms_per_frame.{name}"] = statistics.median(used)
        out[f"peak_mb.{name}"] = statistics.median(a["peak_mb"] for a in runs)
        out[f"frames_looked_at.{name}"] = float(looked)
        out[f"faces.{name}"] = share * sum(len(a["seen"]) for a in runs)
        if clip.who is not None:
            out[f"correct.{name}"] = share * sum(right for right, _ in judged)
            out[f"wrong.{name}"] = share * sum(wrong for _, wrong in judged)
    for peer in (p.name for p in peers.PEERS):
        pairs = zip(rates[OWN], rates.get(peer, []), strict=False)
        ratios = [own / other for own, other in pairs]
        out[f"fps_ratio_to_{peer}"] = statistics.median(ratios) if ratios else None
        their_use = out.get(f"cpu_ms_per_frame.{peer}")
        own_use = out[f"cpu_ms_per_frame.{OWN}"]
        if isinstance(their_use, float) and isinstance(own_use, float):
            out[f"cpu_ratio_to_{peer}"] = their_use / own_use
        else:
            out[f"cpu_ratio_to_{peer}"] = None
    return out


def peak_memory(pid: int, last: float) -> float:
    """Peak resident MB of a running process; `last` once it is gone. What the operating system says
    of a finished child would count this process's own pages, which the child began with."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return last
    found = [x.split()[1] for x in status.splitlines() if x.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else last


def cold(
    command: list[str], clip: Clip, gallery: Path, runtime: str, threads: int
) -> tuple[float, float]:
    """Seconds from the start of `edgeface identify` to its first name (NaN without one), and its
    peak memory in MB. `command` starts edgeface."""
    command = [*command, "identify", "--video", str(clip.file), "-g", str(gallery)]
    command += ["--runtime", runtime, "--threads", str(threads), "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = peak = math.nan
    with process.stdout:
        for line in process.stdout:
            if math.isnan(first) and json.loads(line)["event"] == "identified":
                first = time.perf_counter() - started
            peak = peak_memory(process.pid, peak)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return first, peak


def start(args: argparse.Namespace, runtimes: list[str]) -> Figures:
    """Cold start and memory of `edgeface identify` on the committed sample clip, where somebody
    enrolled is in the first frame."""
    sample = clips(Path("/nowhere"))[0]
    edgeface = [sys.executable, "-m", "edgeface.cli"]
    times: dict[str, list[tuple[float, float]]] = {r: [] for r in runtimes}
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "cold.gallery"
        enrol = [*edgeface, "enroll", str(gallery), "eileen", str(sample.people[0])]
        subprocess.run(enrol, check=True, stdout=subprocess.DEVNULL)
        for _ in range(1 if args.quick else 2 * args.rounds + 1):
            for runtime in runtimes:
                times[runtime].append(cold(edgeface, sample, gallery, runtime, args.threads))
    out: Figures = {}
    for runtime in runtimes:
        out[f"cold_start_s.{runtime}"] = statistics.median(s for s, _ in times[runtime])
        out[f"rss_mb.{runtime}"] = statistics.median(m for _, m in times[runtime])
    out["cold_start_s"], out["rss_mb"] = out[f"cold_start_s.{OWN}"], out[f"rss_mb.{OWN}"]
    return out


def spared(args: argparse.Namespace) -> Figures:
    """What is not paid for where nothing changes, see the top."""
    sample, rounds = clips(Path("/nowhere"))[0], 1 if args.quick else args.rounds
    small, large = SIZES
    limit, frames = (60, 30) if args.quick else (1 << 30, 75)
    with tempfile.TemporaryDirectory() as folder:
        share = cameras(sample, Path(folder), 60 if args.quick else 200)
    return {
        **idle(args.quick),
        "cameras4.cpu_share": share,
        "clip.cpu_ratio_to_before": saved(sample, small, rounds, limit),
        "clip.1920x1080.cpu_ratio_to_before": saved(sample, large, rounds, frames),
    }


def figures(args: argparse.Namespace) -> Figures:
    """Figures under `pipeline.WIDTHxHEIGHT.`, and of the start under `pipeline.`."""
    found = entrants(args)
    base = clips(args.shared)[0]
    if args.video is not None:
        base = Clip(args.video.stem, args.video, tuple(args.people))
    out: Figures = {"pipeline.threads": float(args.threads), "pipeline.clip": base.name}
    with tempfile.TemporaryDirectory() as folder:
        for width in args.widths:
            clip = base
            if width != cv2.VideoCapture(str(base.file)).get(cv2.CAP_PROP_FRAME_WIDTH):
                clip = scaled(base, width, Path(folder))
            height = int(cv2.VideoCapture(str(clip.file)).get(cv2.CAP_PROP_FRAME_HEIGHT))
            key = f"pipeline.{width}x{height}"
            answers = race(clip, found, args)
            out |= {f"{key}.{k}": v for k, v in compared(clip, answers, width).items()}
            limit = 40 if args.quick else 1 << 30
            stages = breakdown(clip, runtime=OWN, threads=args.threads, limit=limit)
            out |= {f"{key}.stage_ms.{k}": v for k, v in stages.items()}
    out |= {f"pipeline.{k}": v for k, v in spared(args).items()}
    runtimes = [e.name for e in found if e.script == "with_edgeface.py"]
    return out | {f"pipeline.{k}": v for k, v in start(args, runtimes).items()}
