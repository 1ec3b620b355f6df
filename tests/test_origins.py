"""The commands that the pages name have these options."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "export/README.md", *sorted(f"docs/{f.name}" for f in ROOT.glob("docs/*.md"))]
COMMAND = re.compile(r"^\s*(?:\$ )?(python -m (?:bench|export)|edgeface) (.+)$", re.MULTILINE)


def commands() -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(program, its verbs, the options named with them), each once, of all pages."""
    found = set()
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        fenced = "\n".join(re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
        for program, rest in COMMAND.findall(fenced.replace("\\\n", " ")):
            words = rest.partition(" #")[0].split()
            verbs = tuple(w for w in words[:2] if re.fullmatch(r"[a-z][a-z0-9-]*", w))
            options = sorted({w.partition("=")[0] for w in words if re.match(r"--[a-z]", w)})
            found.add((program, verbs, tuple(options)))
    return sorted(found)


def of_edgeface(verbs: tuple[str, ...]) -> set[str]:
    """The options of a command of `edgeface`; a word behind one that has no commands is none."""
    from edgeface.cli import app

    command: Any = get_command(app)  # Typer may bring a click of its own, so no type is named
    for verb in verbs:
        if hasattr(command, "commands"):
            command = command.commands[verb]
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


def of_module(program: str, verbs: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The options that `--help` of a bench or an export names."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    main = importlib.import_module(f"{program.rpartition(' ')[2]}.__main__").main
    with pytest.raises(SystemExit) as end:
        main([*verbs, "--help"])
    assert end.value.code == 0
    return set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))


def test_the_pages_name_commands() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize(("program", "verbs", "options"), commands())
def test_every_option_of_a_command_exists(program, verbs, options, capsys) -> None:
    own = program == "edgeface"
    known = of_edgeface(verbs) if own else of_module(program, verbs, capsys)
    assert set(options) <= known, f"{program} {' '.join(verbs)}"
