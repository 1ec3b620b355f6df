"""Nothing leaves the machine and nothing is written that was not asked for, seen by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SAMPLE
from test_models import RUNTIMES

from edgeface.gallery import Gallery
from edgeface.models import load_card

STRACE = shutil.which("strace")
NETWORK = ("socket", "connect", "sendto", "sendmsg", "sendmmsg")
FILES = ("?open", "openat", "?creat", "?mkdir", "mkdirat", "?rename", "?renameat2", "?link")
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|creat\(|mkdir|rename|link\(")


def traced(tmp_path: Path, *command: str) -> list[str]:
    """The calls of NETWORK and FILES that a command makes, its home and temporary folder empty."""
    home, log = tmp_path / "home", tmp_path / "calls"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(home),
    }
    done = subprocess.run(
        [
            STRACE or "",
            "-f",
            "-qq",
            "-o",
            log,
            "-e",
            f"trace={','.join(NETWORK + FILES)}",
            *command,
        ],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("this machine does not allow tracing")
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    return log.read_text(errors="replace").splitlines()


def offences(calls: list[str], allowed: Path) -> list[str]:
    """Sockets, and files written outside `allowed`."""
    found = []
    for call in calls:
        if re.search(rf"\b({'|'.join(NETWORK)})\(", call):
            found.append(call)
        elif WRITES.search(call) and " = -1 " not in call:
            names = re.findall(r'"([^"]*)"', call)
            if not all(n.startswith((str(allowed), "/proc/", "/dev/")) for n in names):
                found.append(call)
    return found


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_identifying_a_clip_opens_no_socket_and_no_file_of_its_own(
    tmp_path: Path, runtime: str
) -> None:
    gallery = tmp_path / "office"
    gallery.mkdir()
    card = load_card("mobilefacenet")
    with Gallery.open(gallery / "office.gallery", model=card.digest, size=card.size) as people:
        people.enroll("Alice", np.eye(1, card.size, dtype=np.float32))
    clip = ("--video", str(SAMPLE / "clip.mp4"), "--every", "25")
    edgeface = (sys.executable, "-m", "edgeface.cli", "identify", *clip, "--runtime", runtime)
    calls = traced(tmp_path, *edgeface, "--gallery", str(gallery / "office.gallery"))
    assert any("office.gallery" in call for call in calls)
    assert offences(calls, gallery) == []


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_the_tracer_sees_a_socket_and_a_stray_file(tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    program = f"import socket; socket.socket(type=socket.SOCK_DGRAM); open({str(stray)!r}, 'w')"
    calls = offences(traced(tmp_path, sys.executable, "-c", program), tmp_path / "office")
    assert len([c for c in calls if "socket(" in c]) == 1
    assert len([c for c in calls if str(stray) in c]) == 1
