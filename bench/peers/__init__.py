"""What a user would pick instead, each in an environment of its own, run as a process of its own.

`python -m bench.peers [DIR]` makes the environments (minutes: dlib is compiled). Benches run a
peer with `run`; a peer that was not made is said so on stderr and leaves its cells empty.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".peers"  # where the environments are made unless told otherwise


@dataclass(frozen=True, slots=True)
class Peer:
    """One system: its `script`, the `packages` of its environment (those of `first` before the
    rest), and what else its process is told."""

    name: str
    script: str
    environment: str
    packages: tuple[str, ...]
    first: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    every: int = 1  # looks at each n-th frame, another one in every round: for the slow, which
    # remember nothing from frame to frame
    shared: bool = True  # needs the models of the shared folder


ONNX = ("numpy", "opencv-python-headless", "onnxruntime")
PEERS = (
    Peer("insightface_style", "like_insightface.py", "onnx", ONNX, every=3),
    Peer(
        "insightface_style_tight",
        "like_insightface.py",
        "onnx",
        ONNX,
        variables=(("DETECT_SIZE", "tight"),),
        every=3,
    ),
    Peer("insightface", "with_insightface.py", "insightface", ("insightface",), every=3),
    Peer("uniface", "with_uniface.py", "uniface", ("uniface[cpu]",), every=3),
    Peer("opencv", "with_opencv.py", "onnx", ONNX),
    Peer(
        "face_recognition",
        "with_face_recognition.py",
        "face_recognition",
        ("dlib", "face_recognition", "face_recognition_models"),
        # face_recognition_models asks for pkg_resources, which setuptools 81 dropped; dlib needs
        # cmake and does not say so.
        first=("setuptools<81", "wheel", "cmake<4", "numpy", "pillow", "opencv-python-headless"),
        every=8,
        shared=False,
    ),
)


def python(folder: Path, peer: Peer) -> Path:
    """The interpreter of a peer's environment, whether that was made or not."""
    return folder / peer.environment / "bin" / "python"


def ready(folder: Path, peer: Peer, shared: Path) -> bool:
    """Whether a peer can run; says on stderr why not."""
    if not (folder / peer.environment / "made").exists():
        why = f"no environment in {folder.name}/; run: python -m bench.peers DIR"
    elif peer.shared and not (shared / "models").is_dir():
        why = "its models are not here: the shared folder is missing"
    else:
        return True
    print(f"bench: {peer.name} is left out, {why}", file=sys.stderr)
    return False


def make(folder: Path) -> None:
    """Make every environment that is not there yet.

    Raises:
        CalledProcessError: a package did not install.
    """
    for peer in PEERS:
        home = folder / peer.environment
        if (home / "made").exists():
            continue
        print(f"bench: making the environment {peer.environment}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        path = f"{(home / 'bin').resolve()}{os.pathsep}{os.environ['PATH']}"
        isolation = []
        if peer.first:
            subprocess.run([*pip, *peer.first], check=True)
            isolation = ["--no-build-isolation"]
        told = os.environ | {"PATH": path, "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
        subprocess.run([*pip, *isolation, *peer.packages], env=told, check=True)
        (home / "made").touch()


def run(interpreter: Path | str, script: str, options: list[str], **more: str) -> dict[str, Any]:
    """The answer of one system's script, see `protocol.main`.

    Raises:
        CalledProcessError: it failed; what it said is on stderr.
    """
    command = [str(interpreter), str(HERE / script), *options]
    done = subprocess.run(
        command, env=os.environ | more, stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
