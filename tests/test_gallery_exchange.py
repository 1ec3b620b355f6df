"""Exports read back as they were written."""

from __future__ import annotations

import random
import zipfile
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


def test_mutated_exports_change_nothing_or_are_taken(full: Gallery, folder: Path, way) -> None:
    """Whatever happens to the bytes, it never ends in another error than ours."""
    write, read = way
    write(full, folder / "good")
    good, rng, refused = (folder / "good").read_bytes(), random.Random(3), 0
    with Gallery.open(folder / "into", model=MODEL, size=SIZE) as into:
        for number in range(250):
            content, at = bytearray(good), rng.randrange(len(good))
            if number % 4 == 0:
                del content[at:]
            elif number % 4 == 1:
                content[at : at + 64] = rng.randbytes(64)
            else:
                for _ in range(rng.randint(1, 8)):
                    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            (folder / "bad").write_bytes(content)
            before = into.count()
            try:
                read(into, folder / "bad")
            except GalleryError as error:
                refused += 1
                assert "\n" not in str(error)
                assert into.count() == before
    assert refused > 100


HOSTILE = {
    "embedding text": {"embedding": lambda a: a.astype(str)},
    "embedding complex": {"embedding": lambda a: a.astype(complex)},
    "embedding 3d": {"embedding": lambda a: a[None]},
    "embedding NaN": {"embedding": lambda a: a * np.nan},
    "lengths negative": {"crop_length": lambda a: a - 9},
    "lengths huge": {"crop_length": lambda a: a + 2**61},
    "lengths floats": {"crop_length": lambda a: a + 0.5},
    "created NaN": {"created": lambda a: a * np.nan},
    "created text": {"created": lambda a: a.astype(str)},
    "quality infinite": {"quality": lambda a: a + np.inf},
    "metadata no JSON": {"metadata_values": lambda a: np.full(len(a), "{")},
    "metadata a list": {"metadata_values": lambda a: np.full(len(a), "[1]")},
    "metadata deep": {"metadata_values": lambda a: np.full(len(a), "[" * 50_000)},
    "index out of range": {"name_index": lambda a: a + 99},
    "index floats": {"name_index": lambda a: a.astype(float)},
    "index booleans": {"name_index": lambda a: a.astype(bool)},
    "names are numbers": {"name_values": lambda a: np.arange(len(a))},
    "names steer a terminal": {"name_values": lambda a: np.char.add(a, "\x1b[2J")},
    "format NaN": {"format": lambda a: np.float64(np.nan)},
    "format many": {"format": lambda a: np.array([1, 2])},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_hostile_exports_are_refused(full: Gallery, folder: Path, changes) -> None:
    full.export_npz(folder / "good")
    with np.load(folder / "good") as stored:
        arrays = dict(stored)
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez_compressed(folder / "bad.npz", **arrays)
    with Gallery.open(folder / "into", model=MODEL, size=SIZE) as into:
        with pytest.raises(GalleryError) as caught:
            into.import_npz(folder / "bad.npz")
        assert "\n" not in str(caught.value)
        assert into.count() == 0


def test_a_header_that_claims_petabytes_is_refused(full: Gallery, folder: Path) -> None:
    full.export_npz(folder / "good")
    with (
        np.load(folder / "good") as stored,
        zipfile.ZipFile(folder / "bad.npz", "w") as out,
    ):
        for name in stored.files:
            with out.open(f"{name}.npy", "w") as file:
                if name == "embedding":
                    shape = {"descr": "<f4", "fortran_order": False, "shape": (10**13, SIZE)}
                    np.lib.format.write_array_header_1_0(file, shape)
                else:
                    np.lib.format.write_array(file, stored[name])
    with pytest.raises(GalleryError, match="not a gallery export"):
        full.import_npz(folder / "bad.npz")
