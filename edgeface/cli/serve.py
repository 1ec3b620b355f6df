"""`edgeface serve`: cameras in, people on a page."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeface.cli.options import GalleryOption, Limit, Threads
from edgeface.cli.output import say
from edgeface.errors import ArgumentError, DependencyError


def serve(
    settings: Annotated[
        Path | None, typer.Argument(metavar="[SETTINGS.toml]", help="Settings of the service.")
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SOURCE", help="A camera to watch; may be given often."),
    ] = None,
    gallery: GalleryOption = None,
    demo: Annotated[bool, typer.Option("--demo", help="Show the sample clip as a camera.")] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default this machine only.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 8377, 0 for any.")] = None,
    threshold: Limit = None,
    threads: Threads = 2,
) -> None:
    """Watch cameras and serve a page of who is there, until Ctrl-C."""
    try:
        from edgeface.serve.running import serve as run
    except ImportError as error:
        if error.name in {"starlette", "uvicorn", "multipart", "python_multipart"}:
            raise DependencyError(
                f"{error.name} is not installed: pip install 'edgeface[serve]'"
            ) from error
        raise
    from edgeface.serve.config import load

    with ExitStack() as stack:
        given: dict[str, Any] = {
            "gallery": gallery, "host": host, "port": port, "threshold": threshold,
            "cameras": [_camera(text) for text in camera or ()], "threads": threads,
        }  # fmt: skip
        if demo:
            from edgeface.serve.demo import prepared

            given |= stack.enter_context(prepared(given))
        made = load(settings, os.environ, given)
        run(made, lambda link: say(f"open {link}"))


def _camera(text: str) -> dict[str, Any]:
    name, mark, source = text.partition("=")
    if not mark or "://" in name:
        raise ArgumentError(f"--camera is {text.partition('://')[0]!r}: write NAME=SOURCE")
    return {"name": name, "source": source}
