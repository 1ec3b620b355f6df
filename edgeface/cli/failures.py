"""What went wrong, as one line and an exit code.

0 done, 1 the data were at fault, 2 the command or the environment was.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

import edgeface
from edgeface.cli.output import say
from edgeface.errors import (
    ArgumentError,
    CameraError,
    DependencyError,
    EdgefaceError,
    ImageError,
    KernelError,
    ModelError,
    OutputError,
)

DATA, ENVIRONMENT, INTERRUPTED = 1, 2, 130
# Everything else that edgeface raises is about the data.
OF_THE_ENVIRONMENT = (
    ArgumentError,
    CameraError,
    DependencyError,
    KernelError,
    ModelError,
    OutputError,
)


def explain(error: BaseException) -> tuple[str, int]:
    """The line that says what went wrong, empty where nothing is to be said, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "", INTERRUPTED
    if isinstance(error, EdgefaceError):
        return str(error), ENVIRONMENT if isinstance(error, OF_THE_ENVIRONMENT) else DATA
    if hasattr(error, "format_message"):  # typer's, about the words of the command
        return _usage(error), ENVIRONMENT
    return _unforeseen(error), ENVIRONMENT


def _usage(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    where = getattr(context, "command_path", "edgeface")
    text: str = error.format_message()  # type: ignore[attr-defined]
    return f"{text.rstrip('. ')}; see: {where} --help"


def _unforeseen(error: BaseException) -> str:
    """What Python says of a limit of this machine, or of a defect. Values of variables are never
    shown: they may be passwords or faces."""
    match error:
        case MemoryError():
            return (
                "out of memory; free some, raise the limit, or use fewer threads (--threads) and "
                "smaller pictures"
            )
        case RecursionError():
            return f"a file is nested too deeply to be read ({_place(error)})"
        case OSError() if error.strerror:
            name = f"{error.filename}: " if error.filename is not None else ""
            return f"{name}{error.strerror}"
        case ImportError():
            return f"a package is missing or broken: {error}; install it again with pip"
        case UnicodeError():
            return (
                f"text cannot be converted ({_place(error)}); run with PYTHONUTF8=1 in the "
                "environment"
            )
        case _:
            return (
                f"unexpected {type(error).__name__} at {_place(error)}: this is a defect of "
                f"edgeface {edgeface.__version__}; please report it with the command"
            )


def _place(error: BaseException) -> str:
    """The innermost line of edgeface that an error went through."""
    package = Path(edgeface.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if Path(f.filename).is_relative_to(package)] or frames
    if not ours:
        return "an unknown place"
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


class Passed:
    """The bad ones among many: each is told of and passed over, and the others go on."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def over(self, what: object) -> Iterator[None]:
        """Tell of what goes wrong inside with `what`, and go on after it."""
        try:
            yield
        except ImageError as error:
            self.tell(error)
        except (MemoryError, RecursionError) as error:
            self.tell(f"{what}: {explain(error)[0]}")

    def tell(self, message: object) -> None:
        """Count one that was passed over."""
        self.count += 1
        say(message)

    def finish(self) -> None:
        """Exit code 1 if any was passed over."""
        if self.count:
            raise typer.Exit(DATA)
