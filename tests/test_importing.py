"""People of other programs come over: what fits, once, and what does not is said."""

import http.server
import json
import shutil
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import pytest
from answering import Answering

from edgeface.describe import Describer
from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.errors import ArgumentError, DataError
from edgeface.gallery import Gallery
from edgeface.importing import Layout, compreface, look

KEY = "3f2a-key"


@pytest.fixture(scope="module")
def people(sample) -> dict[str, np.ndarray]:
    """Two people, each as a crop that is hardly larger than the face."""
    eileen = cv2.imread(str(sample / "eileen.jpg"))[50:190, 90:205]
    video = cv2.VideoCapture(str(sample / "clip.mp4"))
    frame = video.read()[1]
    video.release()
    describer = Describer(Detector.load(), Embedder.load())
    row = describer(eileen)[0].embedding
    other = min(describer(frame), key=lambda f: float(f.embedding @ row))
    x0, y0, x1, y1 = other.box.round().astype(int)
    return {"eileen": eileen, "other": frame[y0 - 15 : y1 + 15, x0 - 15 : x1 + 15]}


def put(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def faces(tmp_path, people) -> Path:
    """Frigate's folder: people, and faces that nobody has sorted."""
    folder = tmp_path / "clips" / "faces"
    put(folder / "Eileen" / "Eileen-a1b2c3.webp", people["eileen"])
    put(folder / "Eileen" / "Eileen-d4e5f6.webp", cv2.flip(people["eileen"], 1))
    put(folder / "mae_j" / "mae_j-000000.webp", people["other"])
    put(folder / "train" / "1735689600.1-abc-0.5.webp", people["other"])
    put(folder / "train" / "1735689601.1-abc-0.5.webp", people["other"])
    (folder / "mae_j" / "mae_j-ffffff.webp").write_bytes(b"RIFF not a picture")
    put(folder / "mae_j" / "mae_j-wall00.webp", np.full((80, 60, 3), 90, np.uint8))
    (folder / "Nobody").mkdir()
    return folder


def names(path: Path) -> dict[str, int]:
    with Gallery.open(path) as gallery:
        return {p.name: len(gallery.samples(p.name)) for p in gallery.people()}


def test_frigates_faces_come_over_once(tmp_path, faces, run) -> None:
    gallery = tmp_path / "g"
    done = run("import", gallery, faces)
    assert done.code == 1  # two pictures are no use, the others were taken
    assert done.rows == [
        {"name": "Eileen", "added": 2, "there": 0, "refused": 0},
        {"name": "mae_j", "added": 1, "there": 0, "refused": 2},
    ]
    assert "laid out as frigate: 2 people" in done.err
    assert "passed over: 2 faces in train/" in done.err
    assert "mae_j-ffffff.webp" in done.err and "no face found in" in done.err
    assert names(gallery) == {"Eileen": 2, "mae_j": 1}
    with Gallery.open(gallery) as store:
        assert store.samples("mae_j")[0].source.endswith("clips/faces/mae_j/mae_j-000000.webp")
        before = store.stamp(), [s.id for s in store.samples("Eileen")]
        # Corrections made here are not undone by importing again.
        store.rename("mae_j", "Mae Jemison")
        store.split("Eileen", [before[1][1]])
    for folder in (tmp_path, tmp_path / "clips"):  # or the folders above it
        again = run("import", gallery, folder)
        assert [row["added"] for row in again.rows] == [0, 0]
        assert [row["there"] for row in again.rows] == [2, 1]
        assert "laid out as frigate" in again.err
    assert names(gallery) == {"Eileen": 1, "Mae Jemison": 1, "stranger-1": 1}


def test_unfit_pictures_are_no_fault_where_they_are_skipped(tmp_path, faces, run) -> None:
    done = run("import", tmp_path / "g", faces, "--faces", "skip")
    assert done.code == 0 and done.err.count("skipped: ") == 2
    assert names(tmp_path / "g") == {"Eileen": 2, "mae_j": 1}


def double_take(folder: Path, people) -> Path:
    put(folder / "train" / "Eileen" / "front-1651234567.jpg", people["eileen"])
    put(folder / "train" / "Mae" / "door-1651234568.jpg", people["other"])
    put(folder / "matches" / "5b1f.jpg", people["other"])
    (folder / "config").mkdir()
    return folder


def test_double_takes_storage_and_its_export(tmp_path, people, run) -> None:
    storage = double_take(tmp_path / "app" / ".storage", people)
    for source in (storage, storage.parent):
        found = look(source)
        assert found.layout is Layout.DOUBLE_TAKE and list(found.people) == ["Eileen", "Mae"]
    shutil.make_archive(str(tmp_path / "export"), "zip", storage)
    first = run("import", tmp_path / "g", tmp_path / "export.zip")
    assert first.code == 0 and [row["added"] for row in first.rows] == [1, 1]
    second = run("import", tmp_path / "g", storage)
    assert [(row["added"], row["there"]) for row in second.rows] == [(0, 1), (0, 1)]
    with Gallery.open(tmp_path / "g") as gallery:
        source = gallery.samples("Mae")[0].source
        assert source == f"{tmp_path}/export.zip/train/Mae/door-1651234568.jpg"


def test_plain_folders_and_archives_of_them(tmp_path, people, run) -> None:
    folder = tmp_path / "people"
    put(folder / "Eileen" / "1.png", people["eileen"])
    put(folder / "Eileen" / "twice.png", people["eileen"])
    put(folder / "Eileen" / ".hidden.png", people["other"])
    put(folder / "@eaDir" / "thumb.png", people["other"])
    put(folder / "a\u202eb" / "1.png", people["other"])
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    for source in (folder, tmp_path / "people.zip"):
        done = run("import", tmp_path / f"g{source.suffix}", source)
        assert "laid out as folders: 2 people" in done.err
        assert done.rows == [{"name": "Eileen", "added": 1, "there": 1, "refused": 0}]
        assert done.code == 1 and "nobody is enrolled here" in done.err  # the name


def test_what_is_no_source_is_refused(tmp_path, run) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    for name, says in (("empty", "holds no folders"), ("text", "no ZIP"), ("none", "no ZIP")):
        with pytest.raises(DataError, match=says):
            look(tmp_path / name)
        done = run("import", tmp_path / "g", tmp_path / name)
        assert done.code == 1 and says in done.err
    assert not (tmp_path / "g").exists()


def test_a_damaged_archive_costs_its_own_pictures(tmp_path, people, run) -> None:
    storage = double_take(tmp_path / "s", people)
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        for path in sorted(storage.rglob("*.jpg")):
            archive.write(path, path.relative_to(storage))
    data = bytearray((tmp_path / "e.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "e.zip") as archive:
        info = archive.getinfo("train/Mae/door-1651234568.jpg")
    data[info.header_offset + 500] ^= 0xFF
    (tmp_path / "e.zip").write_bytes(data)
    done = run("import", tmp_path / "g", tmp_path / "e.zip")
    assert done.code == 1 and "door-1651234568.jpg cannot be read" in done.err
    assert [(row["name"], row["added"]) for row in done.rows] == [("Eileen", 1), ("Mae", 0)]


class CompreFace(http.server.BaseHTTPRequestHandler):
    """Answers as CompreFace documents: pages of faces, a picture each, none where it kept none."""

    collection: dict[str, tuple[str, bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.asked.append(self.path)
        if self.headers.get("x-api-key") != KEY:
            return self.answer(401, b'{"message": "Unauthorized", "code": 1}')
        if parts.path == "/api/v1/recognition/faces":
            query = {k: int(v[0]) for k, v in parse_qs(parts.query).items()}
            rows = list(self.collection.items())
            size = min(query["size"], 2)
            some = rows[query["page"] * size : (query["page"] + 1) * size]
            body = {
                "faces": [{"image_id": i, "subject": subject} for i, (subject, _) in some],
                "page_number": query["page"], "page_size": query["size"],
                "total_pages": -(-len(rows) // size), "total_elements": len(rows),
            }  # fmt: skip
            return self.answer(200, json.dumps(body).encode())
        number = parts.path.removeprefix("/api/v1/recognition/faces/").removesuffix("/img")
        if number not in self.collection:
            return self.answer(404, b"{}")
        return self.answer(200, self.collection[number][1])

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(people):
    jpeg = {name: cv2.imencode(".jpg", image)[1].tobytes() for name, image in people.items()}
    CompreFace.collection = {
        "6b135f5b-a365-4522-b1f1-4c9ac2dd0728": ("Eileen", jpeg["eileen"]),
        "00000000-0000-0000-0000-000000000001": ("Mae/J", jpeg["other"]),
        "00000000-0000-0000-0000-000000000002": ("Mae/J", b""),
        "00000000-0000-0000-0000-000000000003": ("Eileen", jpeg["eileen"]),
    }
    CompreFace.asked = []
    with Answering(CompreFace) as server:
        yield server.address


def test_the_faces_of_compreface_come_over(tmp_path, service, run) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    done = run("import", tmp_path / "g", f"{service}/", "--key-file", tmp_path / "key")
    assert done.code == 1 and "laid out as compreface: 2 people" in done.err
    assert done.rows == [
        {"name": "Eileen", "added": 1, "there": 1, "refused": 0},
        {"name": "Mae/J", "added": 1, "there": 0, "refused": 1},
    ]
    assert "save_images_to_db" in done.err and KEY not in done.err
    assert [a for a in CompreFace.asked if "page" in a] == [
        "/api/v1/recognition/faces?page=0&size=100", "/api/v1/recognition/faces?page=1&size=100",
    ]  # fmt: skip
    again = run("import", tmp_path / "g", service, "--key-file", tmp_path / "key")
    assert [row["added"] for row in again.rows] == [0, 0]


def test_what_compreface_may_answer(service, tmp_path, run) -> None:
    with pytest.raises(DataError, match="answers 401: check the key"):
        compreface(service, "other")
    for wrong in ("", "with\nline", "ключ"):
        with pytest.raises(ArgumentError, match="key"):
            compreface(service, wrong)
    with pytest.raises(ArgumentError, match="no address"):
        compreface("ftp://127.0.0.1", KEY)
    with pytest.raises(DataError, match="does not answer"):
        compreface("http://127.0.0.1:9", KEY)
    CompreFace.collection = {}
    with pytest.raises(DataError, match="empty"):
        compreface(service, KEY)
    CompreFace.collection = {"x": (7, b"")}  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"expected a text, got 7 at \$\.faces\[0\]\.subject"):
        compreface(service, KEY)
    done = run("import", tmp_path / "g", service)
    assert done.code == 2 and "--key-file" in done.err
