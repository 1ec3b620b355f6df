"""Bad pictures get a clear error; good ones come out BGR and upright."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import picture

from edgeface import images
from edgeface.errors import ImageError


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_reads_a_picture_as_bgr(tmp_path: Path, suffix: str) -> None:
    blue = np.zeros((20, 30, 3), np.uint8)
    blue[..., 0] = 200
    path = tmp_path / f"blue{suffix}"
    cv2.imwrite(str(path), blue)
    for source in (path, str(path), path.read_bytes()):
        image = images.read(source)
        assert image.shape == (20, 30, 3)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - blue).max() <= 4


def test_gray_and_transparent_files_become_bgr(tmp_path: Path) -> None:
    assert images.read(picture(tmp_path / "gray.png", (8, 9))).shape == (8, 9, 3)
    assert images.read(picture(tmp_path / "alpha.png", (8, 9, 4))).shape == (8, 9, 3)


def test_an_array_passes_through_uncopied() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    assert images.read(image) is image


def test_exif_orientation_is_applied() -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :8] = 255
    # An APP1 segment that says orientation 6: show the picture turned 90 degrees clockwise.
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    data = jpeg(image)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    turned = images.read(data)
    assert turned.shape == (32, 16, 3)
    assert turned[:6].mean() > 200
    assert turned[12:].mean() < 50


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4, 3), np.float32), "astype"),
        (np.zeros((4, 4), np.uint8), "GRAY2BGR"),
        (np.zeros((4, 4, 1), np.uint8), "GRAY2BGR"),
        (np.zeros((4, 4, 4), np.uint8), "BGRA2BGR"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "shape"),
        ([[1, 2, 3]], "numpy array"),
    ],
)
def test_a_wrong_array_names_its_mend(array: object, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        images.check(array)  # type: ignore[arg-type]


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    for name, data, says in [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"hello, this is text", "not a picture"),
        ("cut.jpg", jpeg(np.full((90, 90, 3), 90, np.uint8))[:-200], "cut short"),
        (
            "cut.png",
            cv2.imencode(".png", np.zeros((90, 90, 3), np.uint8))[1].tobytes()[:-20],
            "cut",
        ),
        ("start.jpg", b"\xff\xd8\xff\xe0\x00", "cut short"),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ImageError, match=says) as caught:
            images.read(path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="cannot be read"):
        images.read(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        images.read(tmp_path)


def test_a_huge_picture_is_refused_before_it_is_decoded() -> None:
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 20000, 20000)
    with pytest.raises(ImageError, match="20000x20000"):
        images.read(png + b"\x08\x02\x00\x00\x00" + b"\0" * 99)
    data = bytearray(jpeg(np.zeros((8, 8, 3), np.uint8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 20000, 20000)
    with pytest.raises(ImageError, match="20000x20000"):
        images.read(bytes(data))


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    assert images.read(picture(tmp_path / "dot.png", (1, 1, 3))).shape == (1, 1, 3)
