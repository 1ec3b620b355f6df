"""Where the galleries of the tests live, and whose faces they hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gallery_faces import MEMORY, MODEL, SIZE

from edgeface.gallery import Gallery


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder, in memory where that can be."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "office.gallery"


@pytest.fixture
def local(path: Path):
    with Gallery.open(path, model=MODEL, size=SIZE) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of our own, with pgvector, in memory where that can be."""
    pytest.importorskip("psycopg")
    pgserver = pytest.importorskip("pgserver", reason="pgserver carries the PostgreSQL to test")
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_RUNTIME_DIR", name)
        running = pgserver.get_server(Path(name) / "data")
        yield running
        running.cleanup()


@pytest.fixture
def server(postgres: Any) -> str:
    """The address of that server, emptied."""
    import psycopg

    address = str(postgres.get_uri())
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute("DROP SCHEMA IF EXISTS edgeface CASCADE")
    return address


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, path: Path) -> Path | str:
    """Where a new gallery goes: a file, or an empty server."""
    if request.param == "sqlite":
        return path
    return str(request.getfixturevalue("server"))


@pytest.fixture
def gallery(place: Path | str):
    with Gallery.open(place, model=MODEL, size=SIZE) as opened:
        yield opened
