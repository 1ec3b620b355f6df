"""The command line. stdout is data (a table on a terminal, JSON lines on a pipe), stderr is talk.

Exit codes: 0 done, 1 the data were at fault, 2 the command or the environment was. Everything heavy
is imported inside the verbs so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from edgeface.cli.cluster import cluster
from edgeface.cli.machine import doctor, models
from edgeface.cli.people import people
from edgeface.cli.verbs import app
from edgeface.errors import (
    ArgumentError,
    DependencyError,
    EdgefaceError,
    KernelError,
    ModelError,
    OutputError,
)

# Exit code 2: the command or the environment was at fault, not the data.
ENVIRONMENT = (ArgumentError, DependencyError, ModelError, KernelError, OutputError)

app.command()(cluster)
app.command()(doctor)
app.add_typer(people, name="gallery")
app.add_typer(models, name="models")


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Face identification on a CPU: who is in front of the camera, offline."""
    if version:
        import edgeface

        print(edgeface.__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Entry point: errors become one line on stderr and an exit code."""
    # FFmpeg and OpenCV report what edgeface reports better.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        app()
    except EdgefaceError as error:
        print(f"edgeface: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ENVIRONMENT) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
