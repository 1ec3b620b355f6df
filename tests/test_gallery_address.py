"""Addresses of servers: read with any password, shown with none."""

from __future__ import annotations

import traceback

import pytest
from gallery_faces import MODEL, SIZE

from edgeface.errors import EdgefaceError
from edgeface.gallery import Gallery
from edgeface.gallery.storage.address import is_postgres, normal, shown
from edgeface.redaction import redact

PASSWORDS = ["s3cret", "s3c#ret", "s3c/ret", "s3c?ret", "s3c[ret", "s3c]ret", "s3c@ret", "s3c:ret"]
PASSWORDS += ["s3c ret", "s3c%ret", "s3c&ret", "s3c;ret", "s3c'ret", "s3c\\ret", "1/s3cret"]
ADDRESSES = [
    *(f"postgresql://bob:{p}@127.0.0.1:1/db" for p in PASSWORDS),
    "POSTGRESQL://bob:s3cret@127.0.0.1:1/db",
    " postgresql://bob:s3cret@127.0.0.1:1/db",
    "Postgres://bob:s3cret@127.0.0.1:1/db?sslmode=prefer",
    "postgresql://127.0.0.1:1/db?user=bob&password=s3cret",
    "postgresql://127.0.0.1:1/db?user=bob&PASSWORD=s3cret",
    "postgresql://bob:s3c/ret@127.0.0.1:1/db?application_name=a@b",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_is_never_shown(address: str) -> None:
    pytest.importorskip("psycopg")
    assert is_postgres(address)
    with pytest.raises(EdgefaceError) as caught:
        Gallery.open(address, model=MODEL, size=SIZE)
    parts = "".join(traceback.format_exception(caught.value, chain=False))
    for text in (str(caught.value), parts, shown(address), redact(address)):
        assert "s3c" not in text
        assert "bob:" not in text
    assert "127.0.0.1:1/db" in str(caught.value)


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_is_read_as_it_was_written(password: str) -> None:
    psycopg = pytest.importorskip("psycopg")
    read = psycopg.conninfo.conninfo_to_dict(normal(f"postgresql://bob:{password}@host:5433/db"))
    assert (read["user"], read["password"]) == ("bob", password)
    assert (read["host"], str(read["port"]), read["dbname"]) == ("host", "5433", "db")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgres:///db?host=/run/x", "postgresql://localhost/db"),
        ("postgresql://host:5432/db?user=a@b", "postgresql://host:5432/db"),
        ("postgresql://a%40b:x%2Fy@host/db", "postgresql://host/db"),
    ],
)
def test_the_place_is_shown(address: str, place: str) -> None:
    assert shown(address) == place


def test_files_are_no_servers() -> None:
    assert not is_postgres("office.gallery")
    assert not is_postgres("./postgresql:/x")
