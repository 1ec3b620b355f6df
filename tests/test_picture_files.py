"""Pictures as phones, cameras and attackers make them: bombs, trailers, cuts, turns, formats."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface import headers, images
from edgeface.errors import ImageError

PIXELS = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PICTURE = cv2.GaussianBlur(np.kron(PIXELS[:10, :15], np.ones((4, 4, 1), np.uint8)), (5, 5), 0)
FORMATS = (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm", ".gif", ".avif", ".jp2")
CASES = SHARED / "cases" / "files"


def encoded(suffix: str, image: np.ndarray = PICTURE, *options: int) -> bytes:
    try:
        done, data = cv2.imencode(suffix, image, options)
    except cv2.error:
        done = False
    if not done:
        pytest.skip(f"this OpenCV cannot write {suffix}")
    return data.tobytes()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bombs() -> dict[str, bytes]:
    """Small files that claim to be huge, in every format and its forms."""
    side = 32_000
    rows = zlib.compress(bytes((side + 1) * 2_000), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    jpeg = bytearray(encoded(".jpg"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    entries += [(273, 4, 8), (278, 4, side), (279, 4, 16)]
    tiff = b"".join(struct.pack("<HHII", t, f, 1, v) for t, f, v in entries)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + tiff + bytes(20)
    big = b"".join(struct.pack(">HHQQ", t, 16, 1, v) for t, _, v in entries)
    big = b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16) + struct.pack(">Q", len(entries)) + big
    riff = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0"
    rle = struct.pack("<IiiHHIIiiII", 40, side, -side, 1, 8, 1, 2, 0, 0, 256, 0)
    ispe = b"\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", side, side)
    ipco = struct.pack(">I4s", 8 + len(ispe), b"ipco") + ispe
    iprp = struct.pack(">I4s", 8 + len(ipco), b"iprp") + ipco
    meta = struct.pack(">I4s", 12 + len(iprp), b"meta") + bytes(4) + iprp
    siz = struct.pack(">HHHIIIIIIIIH", 0xFF51, 41, 0, side, side, 0, 0, side, side, 0, 0, 1)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
    png += chunk(b"IEND", b"")
    lossless = b"WEBPVP8L\x08\0\0\0\x2f" + struct.pack("<I", 16_382 | 16_382 << 14)
    return {
        "png": png,
        "jpeg": bytes(jpeg),
        "jpeg with fill bytes": bytes(jpeg[:at]) + b"\xff\xff" + bytes(jpeg[at:]),
        "jpeg with a second frame": encoded(".jpg")[:-2] + bytes(jpeg[at:]),
        "bmp": b"BM" + struct.pack("<IHHI", 1080, 0, 0, 1078) + rle + bytes(1024) + b"\0\1",
        "tiff": tiff,
        "big tiff": big,
        "webp": riff + b"\xff\x7c\0" + b"\xff\x7c\0",
        "webp lossless": b"RIFF" + struct.pack("<I", 20) + lossless + b"\0\0\0",
        "pgm": b"P5\n32000 32000\n255\n",
        "pgm with comments": b"P5 # a\n # b\n32000\n#c\n 32000 255\n",
        "pam": b"P7\nWIDTH 32000\nHEIGHT 32000\nDEPTH 3\nMAXVAL 255\nENDHDR\n",
        "gif": b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6) + b",",
        "avif": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + meta,
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + meta,
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\0jp2c\xff\x4f" + siz + b"\x07\1\1",
    }


BOMBS = bombs()
MEASURE = """
import json, sys
from pathlib import Path
from edgeface import images
from edgeface.errors import ImageError
says = {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        says[file.name] = str(images.read(file).shape)
    except ImageError as error:
        says[file.name] = str(error)
# Not ru_maxrss: a child inherits its parent's, and the process of the whole suite is large.
status = open("/proc/self/status").read()
print(json.dumps([says, int(status.split("VmHWM:")[1].split()[0]) / 1000]))
"""


def measured(folder: Path, **environment: str) -> tuple[dict[str, str], float]:
    """What reading every file of a folder says, and the peak of the process in MB."""
    run = [sys.executable, "-c", MEASURE, folder]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=env)
    says, peak = json.loads(done.stdout)
    return says, peak


def test_no_bomb_of_any_format_takes_memory(tmp_path: Path) -> None:
    for name, data in BOMBS.items():
        assert len(data) < 100_000, name
        (tmp_path / name).write_bytes(data)
    says, peak = measured(tmp_path)
    assert peak < 300
    assert {name: text for name, text in says.items() if "scale it down" not in text} == {}


def test_opencv_itself_allocates_no_more(tmp_path: Path) -> None:
    # What headers.py does not see in a file, the decoder's own limit has to stop.
    program = (
        "from edgeface.opencv import cv2; import numpy, sys; "
        "cv2.imdecode(numpy.frombuffer(open(sys.argv[1], 'rb').read(), 'u1'), 1)"
    )
    (tmp_path / "bomb.pgm").write_bytes(BOMBS["pgm"])
    run = [sys.executable, "-c", program, tmp_path / "bomb.pgm"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=env)
    assert "CV_IO_MAX_IMAGE_PIXELS" in done.stderr


def test_what_is_no_picture_is_not_read_to_its_end(tmp_path: Path) -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("there is no endless file here")
    with pytest.raises(ImageError, match="not a picture of a known format"):
        images.read("/dev/zero")
    sparse = tmp_path / "large.jpg"
    with sparse.open("wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(ImageError, match="more than 512 MB"):
        images.read(sparse)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read(suffix: str) -> None:
    data = encoded(suffix)
    header = headers.read(data)
    assert header is not None
    assert (header.width, header.height, header.cut) == (60, 40, False)
    image = images.read(data)
    assert image.shape == PICTURE.shape
    assert np.abs(image.astype(int) - PICTURE).mean() < (
        30 if suffix == ".gif" else 12
    )  # of 256 colours


@pytest.mark.parametrize(
    "options",
    [
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        (cv2.IMWRITE_JPEG_QUALITY, 100),
    ],
)
def test_jpegs_of_every_kind_end_where_they_end(options: tuple[int, ...]) -> None:
    data = encoded(".jpg", PIXELS, *options)
    assert images.read(data).shape == PIXELS.shape
    for missing in (1, 2, 10, len(data) // 2):
        header = headers.read(data[:-missing])
        assert header is not None and header.cut, missing


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(
    "trailer", [b"\0" * 9000, b"\0\0\0\x18ftypmp42" + bytes(50_000), b"\xff" * 5000, b"text"]
)
def test_what_follows_a_picture_does_not_matter(suffix: str, trailer: bytes) -> None:
    data = encoded(suffix)
    assert np.array_equal(images.read(data + trailer), images.read(data))
    with pytest.raises(ImageError, match="cut short"):
        images.read(data[:-40])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".avif"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_picture_cut_short_is_refused(suffix: str, kept: float) -> None:
    data = encoded(suffix)
    with pytest.raises(ImageError, match=r"cut short|damaged"):
        images.read(data[: int(kept * len(data))])


def test_a_turned_avif_stands_upright() -> None:
    module = pytest.importorskip("PIL.Image")
    ways = {  # EXIF orientation → what stands upright
        1: lambda image: image,
        2: lambda image: image[:, ::-1],
        3: lambda image: np.rot90(image, 2),
        4: lambda image: image[::-1],
        5: lambda image: image.transpose(1, 0, 2),
        6: lambda image: np.rot90(image, -1),
        7: lambda image: np.rot90(image, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    picture = module.fromarray(PICTURE[..., ::-1])
    for orientation, upright in ways.items():
        file, exif = io.BytesIO(), module.Exif()
        exif[0x0112] = orientation
        try:
            picture.save(file, "AVIF", quality=95, exif=exif)
        except (KeyError, OSError):
            pytest.skip("this Pillow cannot write AVIF")
        wanted = upright(PICTURE)
        image = images.read(file.getvalue())
        assert image.shape == wanted.shape, orientation
        assert np.abs(image.astype(int) - wanted).mean() < 12, orientation


def test_heic_is_read_with_its_extra_or_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    image_module = pytest.importorskip("PIL.Image")
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    try:
        heif.from_pillow(image_module.fromarray(PICTURE[..., ::-1])).save(file, quality=95)
    except Exception as error:
        pytest.skip(f"this pillow_heif cannot write: {error}")
    data = file.getvalue()
    assert np.abs(images.read(data).astype(int) - PICTURE).mean() < 12
    with pytest.raises(ImageError, match=r"cut short|damaged"):
        images.read(data[:-200])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"is HEIC; .*edgeface\[heic\]"):
        images.read(data)


def test_a_format_this_opencv_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix, name in ((".gif", "GIF"), (".avif", "AVIF"), (".jp2", "JPEG 2000")):
        data = encoded(suffix)
        with monkeypatch.context() as context:
            context.setattr(cv2, "imdecode", lambda *arguments: None)
            with pytest.raises(ImageError, match=f"is {name}, which .*convert it to JPEG"):
                images.read(data)
    assert {".heic", ".gif", ".avif", ".jp2"} <= images.SUFFIXES


SEEDS = [*BOMBS.values()] + [
    cv2.imencode(s, PICTURE)[1].tobytes() for s in (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm")
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_picture_is_a_picture_or_an_error(data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(SEEDS))[:20_000])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(seed) - 1))
        way = data.draw(st.integers(0, 2))
        if way == 0:
            seed[at] = data.draw(st.integers(0, 255))
        elif way == 1:
            del seed[at : at + data.draw(st.integers(1, 50))]
        else:
            seed[at:at] = data.draw(st.binary(max_size=8))
        if not seed:
            return
    try:
        image = images.read(bytes(seed))
    except ImageError:
        return
    assert image.ndim == 3 and image.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "says"),
    [("huge.bmp", "scale it down"), ("huge.pgm", "scale it down"), ("huge.tif", "scale it down")],
)
def test_the_known_bombs(shared: Path, name: str, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        images.read(shared / "cases" / "files" / name)


def test_the_known_phone_pictures(shared: Path) -> None:
    for name in ("motion.MP.jpg", "padded.jpg", "trailer.png"):
        assert images.read(CASES / name).size
    turned = images.read(CASES / "turned.avif")
    face = images.read(ROOT / "examples" / "sample" / "eileen.jpg")
    assert (turned.shape[0] > turned.shape[1]) == (face.shape[0] > face.shape[1])
