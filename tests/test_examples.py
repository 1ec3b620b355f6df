"""The examples run, and the documents' commands exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLES = ROOT / "examples"


def test_the_loop_of_ten_lines_names_the_person(tmp_path: Path, sample: Path) -> None:
    command = [sys.executable, EXAMPLES / "ten_lines.py", sample / "clip.mp4", "Eileen"]
    done = subprocess.run(
        [*map(str, command), str(sample / "eileen.jpg")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    named = {e["track"] for e in events if e["name"] == "Eileen"}
    assert len(named) == 1
    assert {e["name"] for e in events} == {"Eileen", None}


def test_the_still_of_a_video(tmp_path: Path, sample: Path) -> None:
    command = [sys.executable, EXAMPLES / "still.py", sample / "clip.mp4", tmp_path / "s.png"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert (tmp_path / "s.png").stat().st_size > 10_000
    command[2] = tmp_path / "none.mp4"
    failed = subprocess.run(list(map(str, command)), check=False, capture_output=True)
    assert failed.returncode == 1


README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = "\n".join(
    p.read_text(encoding="utf-8")
    for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
)


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^edgeface .*?(?=\s+#|$)", DOCUMENTS, re.MULTILINE)))
)
def test_every_command_of_the_documents_is_understood(line: str) -> None:
    verb = [w for w in line.split()[1:3] if re.fullmatch(r"[a-z-]+", w)]
    verbs = verb if verb[0] in {"gallery", "models"} else verb[:1]
    command = [sys.executable, "-m", "edgeface.cli", *verbs, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in re.findall(r"(?<= )--?[a-z-]+", line):
        assert re.search(rf"{option}\b", shown), f"{option} is not an option of {verbs}"


def test_the_python_of_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_the_readme_is_short_and_says_what_this_is_not() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert any("Idiap" in line for line in lines[:4])
