"""Exports read back as they were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gallery_faces import MODEL, SIZE, faces

from edgeface.errors import GalleryError, OutputError
from edgeface.gallery import Gallery, Provenance

pytest_plugins = ("gallery_places",)
WAYS: list[tuple[Callable[[Gallery, Path], int], Callable[[Gallery, Path], int]]] = [
    (Gallery.export_npz, Gallery.import_npz),
    (Gallery.export_parquet, Gallery.import_parquet),
]


@pytest.fixture(params=WAYS, ids=["npz", "parquet"])
def way(request: pytest.FixtureRequest):
    if request.param[0] is Gallery.export_parquet:
        pytest.importorskip("pyarrow")
    return request.param


@pytest.fixture
def full(folder: Path):
    with Gallery.open(folder / "full", model=MODEL, size=SIZE) as gallery:
        gallery.enroll("Zoë", faces(1, 3), qualities=[0.1, None, 1.0], sources=["a", None, "ü"])
        gallery.enroll(
            "李", faces(2), crops=[b"\x00crop\x00"], metadata={"k": "ä"}, external_id="7"
        )
        gallery.enroll("李", faces(3), provenance=Provenance.AUTOMATIC)
        yield gallery


def test_an_export_comes_back_whole(full: Gallery, folder: Path, way) -> None:
    write, read = way
    file = folder / "out"
    assert write(full, file) == 5
    with Gallery.open(folder / "new", model=MODEL, size=SIZE) as gallery:
        assert read(gallery, file) == 5
        for old, new in zip(full.people(), gallery.people(), strict=True):
            assert (old.name, old.kind, old.external_id, old.metadata, old.n_samples) == (
                new.name, new.kind, new.external_id, new.metadata, new.n_samples,
            )  # fmt: skip
            for a, b in zip(full.samples(old.name), gallery.samples(new.name), strict=True):
                np.testing.assert_array_equal(a.embedding, b.embedding)
                assert (a.provenance, a.source, a.crop, a.created) == (
                    b.provenance, b.source, b.crop, b.created,
                )  # fmt: skip
                assert a.quality == pytest.approx(b.quality)
        assert read(gallery, file) == 0, "a second import adds nothing"
        assert gallery.search(faces(2)[0])[0].name == "李"


def test_an_export_of_another_model_is_refused(full: Gallery, folder: Path, way) -> None:
    write, read = way
    write(full, folder / "out")
    with Gallery.open(folder / "new", model="other", size=SIZE) as gallery:
        with pytest.raises(GalleryError, match="cannot be compared"):
            read(gallery, folder / "out")
        assert gallery.people() == []


def test_what_is_no_export_is_refused(full: Gallery, folder: Path, way) -> None:
    _, read = way
    (folder / "text").write_text("nothing of the kind")
    np.savez(folder / "other.npz", a=np.zeros(3))
    for name in ("text", "other.npz", "absent", "."):
        with pytest.raises(GalleryError, match="not a gallery export"):
            read(full, folder / name)


def test_an_export_that_cannot_be_written_leaves_nothing(full: Gallery, folder: Path, way) -> None:
    write, _ = way
    before = sorted(folder.iterdir())
    with pytest.raises(OutputError, match="cannot be written"):
        write(full, folder / "no" / "such" / "folder")
    assert sorted(folder.iterdir()) == before
