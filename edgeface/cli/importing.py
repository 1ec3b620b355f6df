"""`edgeface import`: people of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.failures import Passed
from edgeface.cli.options import (
    SIDE,
    AcceptPoor,
    Embedding,
    MaxSide,
    NewGallery,
    Policy,
    RuntimeOption,
    Threads,
    check_faces,
    check_person,
    opened,
)
from edgeface.cli.output import Json, print_rows, say
from edgeface.cli.progress import each
from edgeface.errors import ArgumentError

if TYPE_CHECKING:
    from edgeface.enrolment import FacePolicy


def import_(
    gallery: NewGallery,
    source: Annotated[
        str, typer.Argument(help="Folder or ZIP archive of NAME/picture, or http:// of CompreFace.")
    ],
    faces: Policy = "require_one",
    accept_poor: AcceptPoor = False,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key of CompreFace's service.")
    ] = None,
    model: Embedding = "mobilefacenet",
    runtime: RuntimeOption = "auto",
    threads: Threads = 2,
    max_side: MaxSide = SIDE,
    as_json: Json = False,
) -> None:
    """Take over people from Frigate, Double Take, CompreFace or a folder.

    Pictures that are there already are left out, so it may be run again.
    """
    from edgeface.importing import compreface, look, take

    check_faces(faces)
    if source.startswith(("http://", "https://")):
        found = compreface(source, _key(key_file))
    else:
        found = look(source)
    say(f"{source} is laid out as {found.layout}: {len(found.people)} people")
    for left in found.left_out:
        say(f"passed over: {left}")
    rows: list[dict[str, Any]] = []
    passed = Passed()
    options = {"model": model, "runtime": runtime, "threads": threads, "max_side": max_side}
    with opened(gallery, **options) as identifier:
        for name, pictures in each(list(found.people.items()), "people"):
            with passed.over(name):
                check_person(name)
                policy: FacePolicy = faces  # type: ignore[assignment]
                done = take(identifier, name, pictures, policy=policy, accept_poor=accept_poor)
                for _, reason in done.refused:
                    if faces == "skip":
                        say(f"skipped: {reason}")
                    else:
                        passed.tell(reason)
                rows.append(
                    {
                        "name": done.name,
                        "added": done.added,
                        "there": done.there,
                        "refused": len(done.refused),
                    }
                )
    print_rows(rows, as_json)
    passed.finish()


def _key(file: Path | None) -> str:
    if file is None:
        raise ArgumentError("CompreFace asks for a key: name a file with it by --key-file")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"the key cannot be read from {file}: {error}") from error
