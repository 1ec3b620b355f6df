"""The command line on the shipped models and the committed sample: data on stdout, messages on
stderr, exit codes that mean something, nothing half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import Run
from conftest import ROOT, picture

from edgeface.cli import options
from edgeface.detect import MAX_SIDE
from edgeface.gallery import Gallery

pytest_plugins = ("gallery_places",)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery with the person of the enrolment picture."""
    gallery = tmp_path_factory.mktemp("people") / "people.gallery"
    command = [sys.executable, "-m", "edgeface.cli", "enroll", gallery, "Eileen Collins"]
    picture_file = ROOT / "examples" / "sample" / "eileen.jpg"
    subprocess.run([*map(str, command), str(picture_file)], check=True, capture_output=True)
    return gallery


def test_commands_take_the_address_of_a_server(run: Run, server: str, tmp_path: Path) -> None:
    eileen = ROOT / "examples" / "sample" / "eileen.jpg"
    assert run("enroll", server, "Eileen Collins", eileen).code == 0
    assert run("gallery", "rename", server, "Eileen Collins", "Eileen").code == 0
    assert [row["name"] for row in run("gallery", "list", server).rows] == ["Eileen"]
    found = run("identify", eileen, "--gallery", server, "--json")
    assert [row["name"] for row in found.rows] == ["Eileen"]


def test_the_demo_names_the_enrolled_and_nobody_else(
    run: Run, people: Path, sample: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "overlay.mp4"
    done = run("identify", "--video", sample / "clip.mp4", "-g", people, "--out", overlay)
    assert done.code == 0
    named = {e["track"] for e in done.rows if e["name"] == "Eileen Collins"}
    assert len(named) == 1
    strangers = {e["track"] for e in done.rows} - named
    assert len(strangers) == 1
    assert {e["status"] for e in done.rows if e["track"] in strangers} <= {"unknown", "low_quality"}
    assert all(e["threshold_origin"].startswith("card") for e in done.rows)
    capture = cv2.VideoCapture(str(overlay))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 200


def test_pictures_one_line_per_face(run: Run, people: Path, sample: Path, tmp_path: Path) -> None:
    done = run("identify", sample / "eileen.jpg", "--gallery", people)
    assert done.code == 0
    (row,) = done.rows
    assert (row["name"], row["status"]) == ("Eileen Collins", "match")
    assert row["similarity"] > 0.95
    mirrored = tmp_path / "mirrored.png"
    cv2.imwrite(str(mirrored), cv2.imread(str(sample / "eileen.jpg"))[:, ::-1])
    strict = run("identify", mirrored, "-g", people, "--threshold", "1")
    assert strict.rows[0]["threshold_origin"] == "user"
    assert strict.rows[0]["name"] is None


def test_without_a_gallery_everybody_is_unknown(run: Run, sample: Path) -> None:
    (row,) = run("identify", sample / "eileen.jpg").rows
    assert (row["status"], row["similarity"]) == ("unknown", None)


def test_verify_and_its_exit_code(run: Run, sample: Path, tmp_path: Path) -> None:
    same = run("verify", sample / "eileen.jpg", sample / "eileen.jpg", "--exit-code")
    assert (same.code, same.rows[0]["same"]) == (0, True)
    capture = cv2.VideoCapture(str(sample / "clip.mp4"))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 90)
    frame = capture.read()[1]
    cv2.imwrite(str(tmp_path / "stranger.png"), frame[:, 330:])
    other = tmp_path / "stranger.png"
    assert run("verify", sample / "eileen.jpg", other).code == 0
    different = run("verify", sample / "eileen.jpg", other, "--exit-code")
    assert (different.code, different.rows[0]["same"]) == (1, False)


def test_verify_makes_no_gallery(
    run: Run, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gallery, "open", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = run("verify", sample / "eileen.jpg", sample / "eileen.jpg")
    assert done.rows[0]["same"] and done.rows[0]["threshold_origin"].startswith("card:")
    strict = run("verify", sample / "eileen.jpg", sample / "eileen.jpg", "--threshold", "0.5")
    assert (strict.rows[0]["threshold"], strict.rows[0]["threshold_origin"]) == (0.5, "user")
    assert list(tmp_path.iterdir()) == []


def test_looking_after_people(run: Run, sample: Path, tmp_path: Path) -> None:
    gallery, other = tmp_path / "a.gallery", tmp_path / "b.gallery"
    folder = tmp_path / "people"
    for name in ("Ann", "Bea"):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").write_bytes((sample / "eileen.jpg").read_bytes())
    assert [r["added"] for r in run("enroll", gallery, folder).rows] == [1, 1]
    assert run("gallery", "rename", gallery, "Ann", "Anna").code == 0
    assert [r["name"] for r in run("gallery", "list", gallery).rows] == ["Anna", "Bea"]
    assert run("gallery", "export", gallery, tmp_path / "x.npz").code == 0
    assert run("gallery", "import", other, tmp_path / "x.npz").code == 0
    assert [r["samples"] for r in run("gallery", "list", other).rows] == [1, 1]
    assert run("gallery", "merge", gallery, "Anna", "Bea").code == 0
    assert [r["samples"] for r in run("gallery", "list", gallery).rows] == [2]
    assert run("gallery", "forget", gallery, "Anna").code == 0
    assert run("gallery", "list", gallery).rows == []
    missing = run("gallery", "forget", gallery, "Anna")
    assert missing.code == 1
    assert "Anna" in missing.err


def test_models_and_doctor(run: Run) -> None:
    names = {r["name"] for r in run("models", "list").rows}
    assert {"detector", "mobilefacenet"} <= names
    assert all(r["state"] == "ok" for r in run("models", "verify").rows)
    checks = {r["check"]: r for r in run("doctor").rows}
    for name in ("python", "cpu", "kernel", "opencv", "runtime", "model detector", "cameras"):
        assert checks[name]["state"] in {"ok", "note"}


def test_every_file_of_a_model_is_verified(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "models"
    own.mkdir()
    for file in (ROOT / "edgeface" / "weights").glob("mobilefacenet*"):
        (own / file.name).write_bytes(file.read_bytes())
    for file in own.glob("*.json"):
        card = json.loads(file.read_text())
        file.write_text(json.dumps(card | {"name": f"my-{card['name']}"}))
    (own / "mobilefacenet.readout.onnx").write_bytes(b"another network")
    (own / "mobilefacenet-int8.bin").unlink()
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path))
    done = run("models", "verify")
    bad = {(Path(r["file"]).name, r["state"]) for r in done.rows if r["state"] != "ok"}
    assert bad == {
        ("mobilefacenet.readout.onnx", "damaged"),
        ("mobilefacenet-int8.xml", "missing"),
    }
    assert done.code == 2


def test_a_pile_of_pictures_becomes_people(run: Run, sample: Path, tmp_path: Path) -> None:
    pile, out = tmp_path / "pile", tmp_path / "out"
    pile.mkdir()
    capture = cv2.VideoCapture(str(sample / "clip.mp4"))
    for i in range(200):
        frame = capture.read()[1]
        if i % 12 == 6:
            cv2.imwrite(str(pile / f"{i:03}.jpg"), frame)
    (pile / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00")
    gallery = tmp_path / "g.gallery"
    done = run("cluster", pile, "--out", out, "--folders", "link", "--into", gallery)
    assert done.code == 0
    assert "cut.jpg" in done.err
    sizes = sorted((r["faces"] for r in done.rows if r["person"] >= 0), reverse=True)
    assert len(sizes) >= 2
    assert sizes[0] >= 14
    for name in ("people.json", "people.csv", "report.html"):
        assert (out / name).stat().st_size > 100
    assert len(run("gallery", "list", gallery).rows) >= 2
    (pile / "eileen.jpg").write_bytes((sample / "eileen.jpg").read_bytes())
    again = run("cluster", pile, "--out", out, "--update")
    grown = sorted((r["faces"] for r in again.rows if r["person"] >= 0), reverse=True)
    assert grown[0] == sizes[0] + 1
    assert run("cluster", tmp_path / "none").code == 1
    assert run("cluster").code == 2


def bad_pictures(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    good = cv2.imencode(".jpg", rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))[1].tobytes()
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is not a picture")
    huge = np.zeros((20000, 20000), np.uint8)
    cv2.imwrite(str(folder / "huge.png"), huge, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return {
        "cut.jpg": folder / "cut.jpg",
        "empty.jpg": folder / "empty.jpg",
        "text.jpg": folder / "text.jpg",
        "huge.png": folder / "huge.png",
        "dot.png": picture(folder / "dot.png", (1, 1, 3)),
        "noise.png": picture(folder / "noise.png", (64, 64)),
        "missing.jpg": folder / "missing.jpg",
    }


def test_bad_pictures_get_one_clear_line_and_leave_no_person(run: Run, tmp_path: Path) -> None:
    gallery = tmp_path / "g.gallery"
    for name, path in bad_pictures(tmp_path).items():
        done = run("enroll", gallery, "Bob", path)
        assert done.code == 1, name
        assert done.err.count("\n") == 1, done.err
        assert done.err.startswith("edgeface: ")
        assert name in done.err
        assert done.out == ""
        assert run("gallery", "list", gallery).rows == []


@pytest.mark.parametrize("name", ["", "x" * 10_000])
def test_bad_names(run: Run, sample: Path, tmp_path: Path, name: str) -> None:
    done = run("enroll", tmp_path / "g.gallery", name, sample / "eileen.jpg")
    assert done.code == 1
    assert "name" in done.err
    assert len(done.err) < 400


@pytest.mark.parametrize("faces", ["require_one", "largest"])
def test_two_faces_in_an_enrolment_picture(
    run: Run, sample: Path, tmp_path: Path, faces: str
) -> None:
    capture = cv2.VideoCapture(str(sample / "clip.mp4"))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 100)
    cv2.imwrite(str(tmp_path / "two.png"), capture.read()[1])
    done = run("enroll", tmp_path / "g", "Bob", tmp_path / "two.png", "--faces", faces)
    assert done.code == (1 if faces == "require_one" else 0)
    if done.code:
        assert "2 faces" in done.err
        assert "largest" in done.err


def test_bad_galleries(run: Run, people: Path, sample: Path, tmp_path: Path) -> None:
    image = sample / "eileen.jpg"
    (tmp_path / "text.gallery").write_text("this is not a gallery, but it is a file " * 50)
    (tmp_path / "cut.gallery").write_bytes(people.read_bytes()[:3000])
    for bad in (tmp_path, tmp_path / "text.gallery", tmp_path / "cut.gallery"):
        before = bad.read_bytes() if bad.is_file() else b""
        done = run("identify", image, "--gallery", bad)
        assert done.code == 1
        assert bad.name in done.err
        assert done.err.count("\n") == 1
        assert not bad.is_file() or bad.read_bytes() == before


def test_bad_sources(run: Run, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.mp4"
    (tmp_path / "text.mp4").write_text("no video")
    for source in (tmp_path / "none.mp4", tmp_path / "text.mp4", "cam97", "http://127.0.0.1:9/x"):
        once = (
            ["--retries", 0] if "://" in str(source) else []
        )  # it may be starting, so it is tried on
        done = run("identify", "--video", source, "--out", overlay, *once)
        live = not str(source).endswith(".mp4")  # a camera is of the environment, a file is data
        assert done.code == (2 if live else 1), source
        assert done.err.startswith("edgeface: ")
        assert done.err.count("\n") == 1, done.err
        assert not overlay.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["identify"],
        ["identify", "--nonsense"],
        ["enroll", "g.gallery", "no-such-folder"],
        ["identify", "x.jpg", "--model", "nothing"],
        ["identify", "x.jpg", "--runtime", "nothing"],
        ["verify", "a.jpg"],
        ["frobnicate"],
        ["gallery"],
        ["gallery", "list", "none.gallery"],
        ["gallery", "forget", "none.gallery", "Ann"],
        ["gallery", "import", "new.gallery", "none.npz"],
        ["calibrate", "none.gallery"],
        ["calibrate", "none.gallery", "none"],
        ["calibrate", "none.gallery", "--fpir", "0"],
        ["identify", "x.jpg", "-g", "none.gallery"],
        ["identify", "--video", "x.mp4", "-g", "none.gallery"],
        ["identify", "--video", "x.mp4", "--retries", "3"],
        ["identify", "x.jpg", "--out", "o.mp4"],
        ["identify", "x.jpg", "--plot", "o.png"],
        ["identify", "x.jpg", "--every", "2"],
        ["identify", "x.jpg", "--retries", "2"],
        ["identify", "x.jpg", "--learn"],
        ["identify", "x.jpg", "--display"],
        ["identify", "x.jpg", "--threads", "1000000"],
        ["identify", "x.jpg", "--threshold", "5"],
        ["identify", "x.jpg", "--threshold", "nan"],
        ["verify", "a.jpg", "b.jpg", "--threads", "0"],
        ["enroll", "g.gallery", "Ann", "a.jpg", "--faces", "all"],
    ],
)
def test_usage_errors_exit_with_two(
    run: Run, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("edgeface: ") and done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_error(people: Path, sample: Path) -> None:
    command = [sys.executable, "-m", "edgeface.cli", "identify", "--video"]
    shell = " ".join(map(str, [*command, sample / "clip.mp4", "-g", people])) + " | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["event"] == "seen"


def test_an_interrupted_watch_leaves_a_video_that_plays(people: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(400):
        cv2.imwrite(str(folder / f"{i:04}.jpg"), np.full((480, 640, 3), 80, np.uint8))
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "edgeface.cli", "identify", "--video", folder, "--out"]
    with subprocess.Popen(
        [*map(str, command), str(out / "o.mp4")],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A shell starts background jobs with SIGINT ignored, and Python would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        for _ in range(300):
            if list(out.iterdir()) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()
    assert [p.name for p in out.iterdir()] == ["o.mp4"]  # nothing unfinished is left
    video = cv2.VideoCapture(str(out / "o.mp4"))
    assert video.read()[0]
    video.release()


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    heavy = "('numpy', 'cv2', 'onnxruntime', 'hnswlib')"
    code = f"import sys, edgeface.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_larger_side_finds_smaller_faces(run: Run, sample: Path, tmp_path: Path) -> None:
    """A face of 36 px in a picture of 2400 is 10 px at the side that is shipped."""
    portrait = cv2.imread(str(sample / "eileen.jpg"))
    small = cv2.resize(portrait, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    wide = np.full((1350, 2400, 3), 120, np.uint8)
    wide[600 : 600 + small.shape[0], 1100 : 1100 + small.shape[1]] = small
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    found = {}
    for side in (320, 2400):
        result = run("identify", tmp_path / "wide.png", "--max-side", side, "--json")
        found[side] = [row["status"] for row in result.rows]
    assert found == {320: ["no_face"], 2400: ["unknown"]}
    assert run("identify", tmp_path / "wide.png", "--max-side", 16).code == 2


def test_the_default_side_is_the_detectors() -> None:
    assert options.SIDE == MAX_SIDE
