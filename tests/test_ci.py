"""What .ci/system does to a contributor's machine: nothing that was not said yes to."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="apt-get is Debian's")


def machine(folder: Path, missing: str, absent: str = "") -> dict[str, str]:
    """The environment of a Debian machine that lacks packages, some `absent` from what it could
    install; its apt-get keeps a diary."""
    scripts = {
        "dpkg": f'case " {missing} " in *" $2 "*) exit 1;; esac; echo Status: install ok installed',
        "apt-get": f'echo "$*" >> {folder}/diary',
        "apt-cache": f'case " {absent} " in *" $2 "*) exit 1;; esac',
        "id": "echo 0",
        "python3": f'case " {missing} " in *" python3-venv "*) exit 1;; esac',
    }
    for name, text in scripts.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    environment = {k: v for k, v in os.environ.items() if k != "CI"}
    return environment | {"PATH": f"{folder}:/usr/bin:/bin"}


def diary(folder: Path) -> list[str]:
    file = folder / "diary"
    return file.read_text().splitlines() if file.exists() else []


def run(environment: dict[str, str], stdin: int = subprocess.DEVNULL) -> tuple[int, str]:
    """Exit code and output."""
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "system")],
        env=environment,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout


def test_nothing_is_missing_nothing_is_said(tmp_path: Path) -> None:
    assert (*run(machine(tmp_path, "")), diary(tmp_path)) == (0, "", [])


def test_without_anybody_to_ask_nothing_is_installed(tmp_path: Path) -> None:
    code, said = run(machine(tmp_path, "strace chromium"))
    assert code == 0 and diary(tmp_path) == []
    assert "missing: chromium strace" in said and "CI=true says yes" in said
    assert "apt-get install -y -q --no-install-recommends chromium strace" in said


def test_what_nothing_runs_without_is_an_error(tmp_path: Path) -> None:
    code, said = run(machine(tmp_path, "python3-venv"))
    assert code == 1 and diary(tmp_path) == []
    assert "Nothing runs without python3-venv." in said


def test_a_job_says_yes_by_its_environment(tmp_path: Path) -> None:
    code, _ = run(machine(tmp_path, "strace chromium") | {"CI": "true"})
    installed = "install -y -q --no-install-recommends chromium strace"
    assert code == 0 and diary(tmp_path) == ["update -q", installed]


def test_what_a_distribution_does_not_have_is_named_and_left_out(tmp_path: Path) -> None:
    code, said = run(machine(tmp_path, "strace chromium", "chromium") | {"CI": "true"})
    assert code == 0 and diary(tmp_path)[-1] == "install -y -q --no-install-recommends strace"
    assert "has no chromium; going on without it" in said


@pytest.mark.parametrize(("answer", "installs"), [("y", True), ("n", False), ("", False)])
def test_somebody_at_a_terminal_is_asked(tmp_path: Path, answer: str, installs: bool) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    code, said = run(machine(tmp_path, "strace"), theirs)
    os.close(ours)
    os.close(theirs)
    assert code == 0
    assert bool(diary(tmp_path)) == installs
    assert ("Going on without them" in said) != installs
