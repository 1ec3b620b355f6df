"""The archive of a backup: a ZIP file of files as they are, behind a list of their digests.

Nothing is compressed: embeddings and pictures hardly shrink, and cameras need the processor.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from edgeface.document import LIMIT, Fields, parse
from edgeface.errors import BackupError

FORMAT, VERSION = "edgeface backup", 1
LIST = "backup.json"  # the first file of an archive
BLOCK = 1 << 20  # bytes read at a time
MOST = (1 << 63) - 1  # of a count


class Role(StrEnum):
    """What a file of a backup is."""

    GALLERY = "gallery"
    SIGHTINGS = "sightings"
    SETTINGS = "settings"
    OWN = "own"  # what a service keeps for itself, such as cameras added in the page


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a backup: its name without a folder, what it is, its bytes and their SHA-256."""

    name: str
    role: Role
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive holds: its `parts`, when it was `made` (UTC, ISO 8601) and by which version
    of `edgeface`, how many people and appearances are in it."""

    parts: tuple[Part, ...]
    made: str
    edgeface: str
    people: int
    sightings: int

    def of(self, role: Role) -> Part | None:
        """The file of a role, None if there is none."""
        return next((part for part in self.parts if part.role is role), None)


def part_of(path: Path, role: Role) -> Part:
    """The description of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return Part(path.name, role, size, digest.hexdigest())


def write(to: IO[bytes], manifest: Manifest, folder: Path) -> None:
    """Write an archive of the files of `folder` that the manifest names."""
    parts = {
        part.name: {"role": part.role, "bytes": part.bytes, "sha256": part.sha256}
        for part in manifest.parts
    }
    about = {"format": FORMAT, "version": VERSION} | asdict(manifest) | {"parts": parts}
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(LIST, json.dumps(about, indent=1))
        for part in manifest.parts:
            archive.write(folder / part.name, part.name)


def read_manifest(archive: str | Path) -> Manifest:
    """What an archive says that it holds; the files themselves are not looked at.

    Raises:
        BackupError: it cannot be read, or it is no backup, damaged, or of a newer edgeface.
    """
    with _opened(Path(archive)) as opened:
        return _manifest(opened, Path(archive))


def check(archive: Path) -> Manifest:
    """`read_manifest`, and every file compared with its digest."""
    with _opened(archive) as opened:
        manifest = _manifest(opened, archive)
        names = [part.name for part in manifest.parts]
        if sorted(opened.namelist()) != sorted([LIST, *names]):
            raise BackupError(f"{archive} does not hold the files that it lists: {_AGAIN}")
        for part in manifest.parts:
            _read(opened, archive, part, lambda block: None)
        return manifest


def unpack(
    archive: Path, manifest: Manifest, folder: Path, finish: Callable[[IO[bytes]], None]
) -> None:
    """Write the files of an archive into a folder, each compared with its digest again; `finish` is
    called with each, still open."""
    with _opened(archive) as opened:
        for part in manifest.parts:
            with (folder / part.name).open("xb") as file:
                _read(opened, archive, part, file.write)
                file.flush()
                finish(file)


def is_backup(path: Path) -> bool:
    """Whether a file is an archive of this kind, of whatever version and state."""
    try:
        with zipfile.ZipFile(path) as opened:
            return LIST in opened.namelist()
    except (OSError, *_DAMAGE):
        return False


_AGAIN = "use another backup"
# What zipfile raises over damaged and strange archives.
_DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, ValueError,
    EOFError,
)  # fmt: skip


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        opened = zipfile.ZipFile(archive)
    except OSError as error:
        raise BackupError(f"{archive} cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise BackupError(f"{archive} is no backup, or damaged ({error}): {_AGAIN}") from error
    with opened:
        yield opened


def _read(
    opened: zipfile.ZipFile, archive: Path, part: Part, take: Callable[[bytes], object]
) -> None:
    """Hand on the blocks of a file of an archive; BackupError unless they are what was written."""
    wrong = BackupError(f"{part.name} in {archive} is damaged: {_AGAIN}")
    info = opened.getinfo(part.name)
    # Stored, so that a small archive cannot become a large file.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != part.bytes:
        raise wrong
    digest = hashlib.sha256()
    try:
        with opened.open(info) as file:
            while block := file.read(BLOCK):
                digest.update(block)
                take(block)
    except _DAMAGE as error:
        raise wrong from error
    if digest.hexdigest() != part.sha256:
        raise wrong


def _manifest(opened: zipfile.ZipFile, archive: Path) -> Manifest:
    foreign = BackupError(f"{archive} is no backup of edgeface: name another file")
    if LIST not in opened.namelist() or opened.getinfo(LIST).file_size > LIMIT:
        raise foreign
    try:
        text = opened.read(LIST)
    except _DAMAGE as error:
        raise BackupError(f"{archive} is damaged ({error}): {_AGAIN}") from error
    about = parse(text, archive, BackupError)
    if about.text("format", default="") != FORMAT:
        raise foreign
    if about.whole("version", 1, MOST) > VERSION:
        raise BackupError(f"{archive} was made by a newer edgeface: update edgeface")
    listed = about.fields("parts")
    for name in listed:
        if not _is_name(name):
            raise BackupError(f"{archive} names a file {name!r}, which is refused: {_AGAIN}")
    parts = tuple(_part(name, listed.fields(name)) for name in listed)
    return Manifest(
        parts, about.text("made"), about.text("edgeface"),
        about.whole("people", 0, MOST), about.whole("sightings", 0, MOST),
    )  # fmt: skip


def _part(name: str, about: Fields) -> Part:
    role = Role(about.text("role", *Role))
    return Part(name, role, about.whole("bytes", 0, MOST), about.text("sha256"))


def _is_name(name: str) -> bool:
    """Whether a name is that of a file in a folder, wherever it is unpacked."""
    return bool(name) and name != LIST and not name.startswith(".") and not set("/\\:\0") & {*name}
