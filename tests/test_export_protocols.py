"""What export and bench share: which crops are whose, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeface.errors import DataError
from export.protocols import pictures
from export.protocols.identities import FOLDERS, Source


def crop(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((112, 112, 3), value, np.uint8))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Five people: the n-th has n pictures, of brightness 10 n + picture."""
    for n in range(1, 6):
        for picture in range(n):
            crop(tmp_path / FOLDERS["lfw"] / f"p{n}" / f"{picture}.png", 10 * n + picture)
    (tmp_path / FOLDERS["lfw"] / "p3" / "notes.txt").write_text("no crop")
    return tmp_path


def source(shared: Path, calls: list[int], **options: int) -> Source:
    def embed(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        level = images[:, 0, 0, 0].astype(np.float32)
        return np.stack([level, np.ones_like(level)], axis=1)

    return Source("toy", shared, shared / "cache", lambda: embed, **options)


def test_crops_come_in_order_whose_they_are_with_them(shared: Path) -> None:
    calls: list[int] = []
    found = source(shared, calls).folder("lfw")
    assert found.labels.tolist() == [0] + [1] * 2 + [2] * 3 + [3] * 4 + [4] * 5
    level = found.embeddings[:, 0] / found.embeddings[:, 1]
    want = [10 * n + picture for n in range(1, 6) for picture in range(n)]
    assert np.allclose(level, want, rtol=1e-5)
    again = source(shared, calls).folder("lfw")
    assert calls == [15] and np.array_equal(again.embeddings, found.embeddings)


def test_of_every_second_person_all_crops(shared: Path) -> None:
    some = source(shared, [], every=2)
    folders = [file.parent.name for file in some.files("lfw")]
    assert folders == ["p1"] + ["p3"] * 3 + ["p5"] * 5
    assert some.folder("lfw").labels.tolist() == [0] + [1] * 3 + [2] * 5
    assert some.kept("lfw") != source(shared, []).kept("lfw")


def test_what_is_missing_or_changed_is_named(shared: Path) -> None:
    with pytest.raises(DataError, match=r"pins/train: no crops; --shared names"):
        source(shared, []).folder("pins-train")
    source(shared, []).folder("lfw")
    crop(shared / FOLDERS["lfw"] / "p1" / "more.png", 1)
    with pytest.raises(DataError, match=r"lfw\.toy\.npy has 15 rows for 16 crops: delete it"):
        source(shared, []).folder("lfw")


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    for path in (broken, tmp_path / "absent.png"):
        with pytest.raises(DataError, match=f"{path.name}: expected a picture"):
            pictures.read(path)
    crop(tmp_path / "good.png", 7)
    assert pictures.stack([tmp_path / "good.png"] * 2).shape == (2, 112, 112, 3)
    with pytest.raises(DataError, match=r"broken\.png"):
        pictures.stack([tmp_path / "good.png", broken])
