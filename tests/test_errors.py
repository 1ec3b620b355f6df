"""One hierarchy of errors, read from the code itself."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from conftest import ROOT

from edgeface import errors

OURS = {name for name, value in vars(errors).items() if inspect.isclass(value)}
# What a protocol of the language asks for, not an error of the caller's input.
LANGUAGE = {
    "KeyboardInterrupt",  # q in the window
    "AttributeError",  # a module's __getattr__
    "NotImplementedError",
    "StopIteration",
}
COMMAND_LINE = {"BadParameter", "Exit", "SystemExit"}
# What never leaves its part: an answer of the service, and an event that is sent again.
INSIDE = {"serve": {"Refused"}, "wires": {"Undelivered", "NotYet", "NotTaken"}}


def raised(path: Path) -> list[tuple[int, str]]:
    """Line and class name of every `raise` of a new exception in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "?")
            if name[:1].isupper():
                found.append((node.lineno, name))
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "edgeface").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_what_is_raised_on_purpose_is_an_edgeface_error(path: Path) -> None:
    allowed = OURS | LANGUAGE
    allowed |= COMMAND_LINE if "cli" in path.parts else set()
    allowed |= set().union(*(INSIDE.get(part, set()) for part in path.parts))
    assert [
        f"{path}:{line} raises {name}" for line, name in raised(path) if name not in allowed
    ] == []


def test_the_reader_of_raises_sees_every_form(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "raise ValueError\nraise KeyError(1) from e\nraise a.OtherError()\nraise\nraise e\n"
    )
    assert raised(file) == [(1, "ValueError"), (2, "KeyError"), (3, "OtherError")]


def test_every_error_has_one_base_and_says_what_it_is_for() -> None:
    for name in OURS:
        error = getattr(errors, name)
        assert issubclass(error, errors.EdgefaceError)
        assert error.__doc__
    assert issubclass(errors.ArgumentError, ValueError)
