"""The command line. stdout is data (a table on a terminal, JSON lines on a pipe), stderr messages.

Exit codes: 0 done, 1 the data were at fault, 2 the command or the environment was. Everything heavy
is imported inside the verbs so that `--help` is quick.
"""

from __future__ import annotations

import codecs
import logging
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from edgeface.cli.backup import backup, restore
from edgeface.cli.cluster import cluster
from edgeface.cli.failures import explain
from edgeface.cli.identify import identify
from edgeface.cli.importing import import_
from edgeface.cli.machine import doctor, models
from edgeface.cli.output import Messages, say
from edgeface.cli.people import people
from edgeface.cli.serve import serve
from edgeface.cli.sightings import sightings
from edgeface.cli.verbs import calibrate, enroll, verify

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    enroll,
    identify,
    verify,
    calibrate,
    cluster,
    serve,
    sightings,
    backup,
    restore,
    doctor,
):
    app.command()(verb)
app.command(name="import")(import_)
app.add_typer(people, name="gallery")
app.add_typer(models, name="models")


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Face identification on a CPU: who is in front of the camera, offline."""
    if version:
        import edgeface

        print(edgeface.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> NoReturn:
    """Entry point: whatever goes wrong becomes one line on stderr and an exit code."""
    _prepare()
    try:
        code = app(prog_name="edgeface", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        message, code = explain(error)
        if message:
            say(message)
    sys.exit(code if isinstance(code, int) else 0)


def _prepare() -> None:
    """Make the surroundings such that the verbs need not care."""
    ascii_only = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if ascii_only and os.environ.get("PYTHONUTF8") != "1" and sys.executable:
        # A locale without letters beyond ASCII was forced. Names and files have them all the same,
        # and Python settles this before it runs a line.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for number in range(3):  # a closed stream: the next file opened would take its place
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    # FFmpeg and OpenCV report what edgeface reports better.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging.getLogger("edgeface").handlers = [Messages(logging.WARNING)]
    # Ended from outside, a command leaves as it does when it fails: nothing half-written.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
