"""`edgeface gallery …`: looking after the people of a gallery."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.options import GalleryFile, existing, seconds
from edgeface.cli.output import Json, print_rows, say
from edgeface.cli.sightings import follow_gallery, show
from edgeface.errors import ArgumentError

if TYPE_CHECKING:
    from edgeface.gallery import Gallery

people = typer.Typer(help="Look after the people of a gallery.")


@people.command("list")
def list_people(gallery: GalleryFile, as_json: Json = False) -> None:
    """List the people of a gallery."""
    with _store(gallery) as store:
        rows = [
            {"person_id": p.id, "name": p.name, "kind": str(p.kind), "samples": p.n_samples}
            for p in store.people()
        ]
    print_rows(rows, as_json, columns=("person_id", "name", "kind", "samples"))


@people.command()
def rename(gallery: GalleryFile, name: str, new: str) -> None:
    """Give a person another name; the id stays."""
    with _store(gallery) as store:
        store.rename(name, new)


@people.command()
def merge(
    gallery: GalleryFile,
    into: str,
    other: str,
    force: Annotated[
        bool, typer.Option("--force", help="Although they are known to be different people.")
    ] = False,
) -> None:
    """Give the samples of OTHER to INTO; OTHER is gone."""
    with _store(gallery) as store:
        store.merge(into, other, force=force)


@people.command()
def forget(
    gallery: GalleryFile,
    name: Annotated[str | None, typer.Argument(help="The person to forget.")] = None,
    strangers: Annotated[
        bool, typer.Option("--strangers", help="Forget numbered strangers instead.")
    ] = False,
    older_than: Annotated[
        str | None, typer.Option(help="Only strangers not seen for so long: 30d, 12h, 2w.")
    ] = None,
) -> None:
    """Erase a person or strangers, for good.

    The bytes in the file are erased as well, and what cameras kept of them.
    """
    if (name is None) != strangers:
        raise ArgumentError("give either the name of a person or --strangers")
    if older_than is not None and not strangers:
        raise ArgumentError("--older-than goes with --strangers; a person is forgotten by name")
    age = None if older_than is None else seconds(older_than, "--older-than")
    with _store(gallery) as store:
        if name is not None:
            store.forget(name)
        else:
            count = store.forget_strangers(None if age is None else time.time() - age)
        follow_gallery(store)
    if strangers:
        say(f"strangers forgotten: {count}")


@people.command()
def ignore(
    gallery: GalleryFile,
    name: str,
    off: Annotated[bool, typer.Option("--off", help="Heed them again.")] = False,
) -> None:
    """Recognise a person without ever calling it a match."""
    with _store(gallery) as store:
        say(f"{name} is {store.ignore(name, not off).kind} now")


@people.command()
def group(
    gallery: GalleryFile,
    name: str,
    group: Annotated[str | None, typer.Argument(help="Such as family; none without it.")] = None,
) -> None:
    """Put a person into a group, or into none."""
    with _store(gallery) as store:
        store.set_group(name, group)


people.command()(show)


@people.command()
def encrypt(gallery: GalleryFile) -> None:
    """Encrypt a gallery file in place.

    The key is the one that EDGEFACE_GALLERY_KEY or EDGEFACE_GALLERY_KEY_FILE names.
    """
    from edgeface.gallery import Gallery

    Gallery.encrypt(gallery)
    with _store(gallery) as store:
        follow_gallery(store)
    say(f"{gallery} is encrypted now")


@people.command("export")
def export_people(gallery: GalleryFile, file: Path) -> None:
    """Write everybody to FILE.npz or FILE.parquet."""
    with _store(gallery) as store:
        write = store.export_parquet if _is_parquet(file) else store.export_npz
        say(f"{write(file)} samples written to {file}")


@people.command("import")
def import_people(gallery: GalleryFile, file: Path, model: str = "mobilefacenet") -> None:
    """Add the people of an exported file."""
    from edgeface.gallery import Gallery
    from edgeface.models import load_card

    if not file.is_file():
        raise ArgumentError(f"there is no file {file}; make one with: edgeface gallery export")
    parquet = _is_parquet(file)
    card = load_card(model, "embedding")
    with Gallery.open(gallery, model=card.digest, size=card.size) as store:
        read = store.import_parquet if parquet else store.import_npz
        say(f"{read(file)} samples read from {file}")


@people.command()
def split(
    gallery: GalleryFile,
    name: str,
    samples: Annotated[list[int], typer.Argument(help="Sample ids, see `gallery samples`.")],
    new: Annotated[str | None, typer.Option(help="Name of the new person.")] = None,
) -> None:
    """Make some samples of a person another person.

    That is the next stranger, unless --new gives a name.
    """
    with _store(gallery) as store:
        say(f"now {store.split(name, samples, new).name}")


@people.command("not-this-person")
def not_this_person(gallery: GalleryFile, name: str, sample: int) -> None:
    """Say that a sample is not of NAME.

    It becomes a stranger, and is never joined with them again.
    """
    with _store(gallery) as store:
        who = store.not_this_person(name, sample=sample)
        say(f"sample {sample} is {who.name} now")


@people.command()
def samples(gallery: GalleryFile, name: str, as_json: Json = False) -> None:
    """List the samples of a person and who vouches for each."""
    with _store(gallery) as store:
        rows = [
            {
                "sample": s.id,
                "provenance": str(s.provenance),
                "quality": s.quality,
                "source": s.source,
            }
            for s in store.samples(name)
        ]
    print_rows(rows, as_json, columns=("sample", "provenance", "quality", "source"))


@people.command()
def audit(gallery: GalleryFile, model: str = "mobilefacenet", as_json: Json = False) -> None:
    """List what looks wrong.

    Mislabelled samples, outliers, and people who may be one.
    """
    from edgeface.gallery import audit as look
    from edgeface.models import load_card

    with _store(gallery) as store:
        threshold = (store.threshold or load_card(model, "embedding").threshold).value
        found = look(store, threshold)
    rows = [
        {
            "flaw": str(f.flaw),
            "person": f.person,
            "other": f.other,
            "sample": f.sample,
            "similarity": round(f.similarity, 4),
        }
        for f in found
    ]
    print_rows(rows, as_json, columns=("flaw", "person", "other", "sample", "similarity"))


@people.command()
def tidy(gallery: GalleryFile, as_json: Json = False) -> None:
    """Merge strangers who turn out to be one person.

    `undo` takes each merge back.
    """
    from edgeface.tidy import tidy as merge_strangers

    with _store(gallery) as store:
        rows = [{"kept": m.kept, "gone": m.gone} for m in merge_strangers(store)]
    print_rows(rows, as_json, columns=("kept", "gone"))


@people.command()
def history(gallery: GalleryFile, limit: int = 20, as_json: Json = False) -> None:
    """List the newest changes, newest first."""
    with _store(gallery) as store:
        rows = [
            {
                "entry": e.id,
                "action": e.action,
                "undone": e.undone,
                "created": datetime.fromtimestamp(e.created)
                .astimezone()
                .isoformat(timespec="seconds"),
            }
            for e in store.history(limit)
        ]
    print_rows(rows, as_json, columns=("entry", "action", "undone", "created"))


@people.command()
def undo(
    gallery: GalleryFile,
    entry: Annotated[int | None, typer.Argument(help="Default: the newest change.")] = None,
) -> None:
    """Take back one change."""
    with _store(gallery) as store:
        say(f"took back {store.undo(entry).action}")


def _is_parquet(file: Path) -> bool:
    if file.suffix not in {".npz", ".parquet"}:
        raise ArgumentError(f"{file} must end in .npz or .parquet")
    return file.suffix == ".parquet"


def _store(gallery: str) -> Gallery:
    """The gallery as it is, whatever model made it."""
    from edgeface.gallery import Gallery

    return Gallery.open(existing(gallery), create=False)
