"""Several cameras in one process share a gallery, fail and end alone, and tell their state."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
from command_line import Run
from conftest import ROOT, face
from test_identify import BLUE, RED, Colours, Scripted, enroll, painted
from test_live import Pictures, pictures

from edgeface.cameras import Camera, Cameras, CameraSpec, State, label, named, watch
from edgeface.describe import Describer
from edgeface.errors import ArgumentError, CameraError, GalleryError, SourceError
from edgeface.gallery import Gallery
from edgeface.identify import Identifier
from edgeface.models import ModelCard
from edgeface.settings import Settings
from edgeface.sightings import Sightings
from edgeface.sinks.merged import Merged
from edgeface.stopping import Stop
from edgeface.types import Event, Threshold
from edgeface.video import LiveOptions

BOUND = 20.0


class Kept:
    """A sink that keeps events."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.closed = 0

    def publish(self, event: Event) -> None:
        self.told.append(event)

    def show(self, frame, sightings) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made(tmp_path: Path, embedding_card: ModelCard):
    """A describer and a gallery that know Alice by her colour."""
    detector = Scripted()
    gallery = Gallery.open(tmp_path / "people.gallery", model="colours", size=3)
    describer = Describer(detector, Colours(embedding_card))
    enroll(Identifier(describer, gallery, threshold=Threshold(0.8, "user")), detector, "Alice", RED)
    detector.faces = [face(100, 60, 90), face(400, 60, 90)]
    yield describer, gallery
    gallery.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frames").mkdir()
    picture = painted((face(100, 60, 90), RED), (face(400, 60, 90), BLUE))
    for index in range(6):
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), picture)
    return tmp_path / "frames"


LIVE = LiveOptions(open_timeout=2.0, stall=1.0, pause=0.1, pause_max=0.2)


@pytest.fixture
def cameras(made) -> Iterator[Cameras]:
    kept: dict[str, Kept] = {}
    told: list[dict[str, object]] = []
    there = Cameras(
        *made,
        Settings(live=LIVE, motion=None),
        threshold=Threshold(0.8, "user"),
        sinks=lambda name: [kept.setdefault(name, Kept())],
        tell=told.append,
    )
    there.kept, there.told = kept, told  # type: ignore[attr-defined]
    yield there
    assert there.close(BOUND) == []


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_in(camera: Camera, state: State) -> Callable[[], bool]:
    return lambda: camera.state().state is state


def test_cameras_share_a_gallery_and_follow_by_themselves(cameras, folder: Path) -> None:
    for name in ("door", "garden"):
        cameras.add(CameraSpec(name, str(folder)))
    for camera in cameras:
        until(is_in(camera, State.ENDED))
    for name in ("door", "garden"):
        told = cameras.kept[name].told
        assert {e.source for e in told} == {name}
        assert [(str(e.kind), e.track) for e in told if e.track == 1] == [
            ("seen", 1), ("identified", 1), ("lost", 1),
        ]  # fmt: skip
        assert [e.decision.name for e in told if e.kind == "identified"] == ["Alice"]
    runs = [{e.run for e in kept.told} for kept in cameras.kept.values()]
    assert all(len(r) == 1 for r in runs) and runs[0] != runs[1]
    state = cameras["door"].state().to_dict()
    assert (state["frames"], state["size"], state["error"]) == (6, [600, 300], None)
    assert all(kept.closed == 1 for kept in cameras.kept.values())


def test_one_that_fails_leaves_the_others_alone_and_says_why(cameras, folder: Path) -> None:
    cameras.add(CameraSpec("nowhere", "/no/such/file.mp4"))
    good = cameras.add(CameraSpec("door", str(folder), repeat=True))
    until(is_in(cameras["nowhere"], State.FAILED))
    until(lambda: good.state().frames > 12)
    assert good.state().state is State.RUNNING
    assert "no file, folder, camera" in cameras["nowhere"].state().error
    assert cameras.remove("nowhere")
    assert [c.spec.name for c in cameras] == ["door"]


def test_a_defect_in_one_camera_does_not_end_it_for_good(cameras, folder, monkeypatch) -> None:
    monkeypatch.setattr(cameras, "_again", 0.05)
    fails = iter([GalleryError("the gallery is gone"), ZeroDivisionError("a defect")])

    def watch(self, *args, **options):
        for error in fails:
            raise error
        return real(self, *args, **options)

    real = Identifier.watch
    monkeypatch.setattr(Identifier, "watch", watch)
    camera = cameras.add(CameraSpec("door", str(folder)))
    until(is_in(camera, State.ENDED))
    assert camera.state().frames == 6 and camera.state().error is None


def test_a_stream_that_breaks_off_is_told_lost_and_back_in_turn(cameras, monkeypatch) -> None:
    monkeypatch.setattr(Pictures, "count", 60)
    with pictures() as port:
        camera = cameras.add(CameraSpec("door", f"http://user:secret@127.0.0.1:{port}/x"))
        until(is_in(camera, State.RUNNING))
        assert cameras.told == []
        until(lambda: len(cameras.told) >= 3)
    until(lambda: "refuses" in (camera.state().error or ""))
    assert camera.state().state is State.LOST
    events = [t["event"] for t in cameras.told]
    assert events == (["camera_lost", "camera_back"] * len(events))[: len(events)]
    ids = [t["id"] for t in cameras.told]
    assert ids == sorted(set(ids))
    assert "secret" not in str(cameras.told) + str(camera.state())
    assert camera.state().reconnects == events.count("camera_back")
    schema = json.loads((ROOT / "docs/event.schema.json").read_text(encoding="utf-8"))
    for event in cameras.told:
        pytest.importorskip("jsonschema").validate(event, schema)


def test_the_newest_frame_is_waited_for(cameras, folder: Path) -> None:
    camera = cameras.add(CameraSpec("door", str(folder), repeat=True))
    first = camera.snapshot(timeout=BOUND)
    later = camera.snapshot(first.number, timeout=BOUND)
    assert later.number > first.number and later.image.shape == (300, 600, 3)
    assert camera.snapshot(later.number + 10_000, timeout=0.05) is None


def test_a_file_that_repeats_plays_at_its_own_pace(cameras, folder: Path) -> None:
    camera = cameras.add(CameraSpec("door", str(folder), repeat=True))
    camera.snapshot(timeout=BOUND)
    begin = time.monotonic()
    first = camera.state().frames
    until(lambda: camera.state().frames >= first + 18)
    assert time.monotonic() - begin > 10 / 25  # 25 per second, and it may have been late before


def test_closing_is_bounded_and_ends_all_tracks(cameras, folder: Path) -> None:
    before = set(threading.enumerate())
    for n in range(4):
        cameras.add(CameraSpec(f"cam{n}", str(folder), repeat=True))
    for camera in cameras:
        camera.snapshot(6, timeout=BOUND)
    begin = time.monotonic()
    assert cameras.close(BOUND) == []
    assert time.monotonic() - begin < 5
    assert set(threading.enumerate()) - before == set()
    for kept in cameras.kept.values():
        tracks = [(e.run, e.track) for e in kept.told if e.kind == "seen"]
        assert sorted(tracks) == sorted((e.run, e.track) for e in kept.told if e.kind == "lost")
    assert all(c.state().state is State.STOPPED for c in cameras)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "x" * 65}, "64"),
        ({"source": ""}, "no source"),
        ({"every": 0}, "every"),
        ({"source": "rtsp://u:secret@h/", "repeat": True}, "no end"),
    ],
)
def test_what_no_camera_is_made_of(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ArgumentError, match=says) as caught:
        CameraSpec(**{"name": "door", "source": "0"} | fields)
    assert "secret" not in str(caught.value)


def test_names_are_unique_and_asked_for_by_name(cameras, folder: Path) -> None:
    cameras.add(CameraSpec("door", str(folder)))
    with pytest.raises(ArgumentError, match="already"):
        cameras.add(CameraSpec("door", str(folder)))
    with pytest.raises(ArgumentError, match="there are: door"):
        cameras["window"]
    with pytest.raises(ArgumentError, match="no camera"):
        cameras.remove("window")


@pytest.fixture
def app(made) -> Identifier:
    return Identifier(*made, Settings(live=LIVE, motion=None), threshold=Threshold(0.8, "user"))


def test_one_loop_takes_what_several_sources_tell(app, folder: Path) -> None:
    told = list(watch(app, [CameraSpec(n, str(folder)) for n in ("door", "garden")]))
    for name in ("door", "garden"):
        mine = [(e["event"], e["frame"]) for e in told if e["camera"] == name and e["name"]]
        assert mine == [("seen", 2), ("identified", 2), ("lost", 5)]
        assert [e["id"] for e in told if e["camera"] == name] == sorted(
            e["id"] for e in told if e["camera"] == name
        )


def test_sources_that_fail_are_told_of_after_the_others_have_ended(app, folder: Path) -> None:
    door, missing = CameraSpec("door", str(folder)), CameraSpec("shed", "/no/such.mp4")
    told = []
    with pytest.raises(SourceError, match=r"^1 of 2 sources failed: shed$") as caught:
        told.extend(watch(app, [missing, door]))
    assert not isinstance(caught.value, CameraError)
    assert [e["event"] for e in told if e["name"]] == ["seen", "identified", "lost"]
    with pytest.raises(CameraError, match="2 of 2 sources failed: a, b"):
        list(watch(app, [CameraSpec("a", "cam97"), CameraSpec("b", "cam98")]))
    with pytest.raises(ArgumentError, match="already"):
        list(watch(app, [door, door]))


def test_a_loop_over_several_sources_ends_when_asked_and_when_left(app, folder: Path) -> None:
    before = set(threading.enumerate())
    specs = [CameraSpec(n, str(folder), repeat=True) for n in ("door", "garden")]
    stop, told = Stop(), []
    for event in watch(app, specs, should_stop=stop):
        told.append(event)
        stop.set()
    tracks = {kind: {(e["camera"], e["track"]) for e in told if e["event"] == kind} for kind in
              ("seen", "lost")}  # fmt: skip
    assert tracks["seen"] == tracks["lost"] != set()
    left = watch(app, specs)
    next(left)
    left.close()
    assert set(threading.enumerate()) - before == set()


def test_events_wait_for_a_slow_loop_and_go_nowhere_without_one() -> None:
    merged = Merged(limit=2)
    putting = threading.Thread(target=lambda: [merged.tell({"n": n}) for n in range(5)])
    putting.start()
    time.sleep(0.3)
    assert putting.is_alive()
    taken: list[dict] = []
    until(lambda: taken.extend(merged.take(0.05)) or len(taken) == 5)
    putting.join(BOUND)
    assert [t["n"] for t in taken] == list(range(5))
    merged.end()
    for _ in range(3):
        merged.tell({})
    assert list(merged.take(0)) == []


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("door=0", "door", "0"),
        ("Haustür=rtsp://h/x?a=b", "Haustür", "rtsp://h/x?a=b"),
        ("rtsp://h/x?a=b", None, "rtsp://h/x?a=b"),
        ("cam0", None, "cam0"),
        ("=clip.mp4", None, "=clip.mp4"),
    ],
)
def test_a_name_stands_before_a_source(text: str, name: str | None, source: str) -> None:
    assert named(text) == (name, source)


def test_a_file_with_an_equals_sign_needs_no_name(tmp_path: Path) -> None:
    file = tmp_path / "a=b.mp4"
    file.touch()
    assert named(str(file)) == (None, str(file))
    assert named(f"door={file}") == ("door", str(file))
    CameraSpec(label(str(file) * 3), str(file))
    assert "secret" not in label("rtsp://bob:secret@host/x")


def test_the_command_follows_several_videos(run: Run, sample: Path, tmp_path: Path) -> None:
    clip, gallery = sample / "clip.mp4", tmp_path / "g.gallery"
    assert run("enroll", gallery, "Eileen", sample / "eileen.jpg").code == 0
    both = (
        "identify",
        "--video",
        f"door={clip}",
        "--video",
        f"garden={clip}",
        "-g",
        gallery,
        "--every",
        4,
    )
    found = run(*both, "--sightings")
    assert found.code == 0, found.err
    alone = run("identify", "--video", f"door={clip}", "-g", gallery, "--every", 4).rows
    for name in ("door", "garden"):
        mine = [e | {"camera": "door"} for e in found.rows if e["camera"] == name]
        for new, old in zip(mine, alone, strict=True):
            assert {k: new[k] for k in new if k not in ("id", "run", "ts")} == {
                k: old[k] for k in old if k not in ("id", "run", "ts")
            }
    with Gallery.open(gallery) as people, Sightings.open(people) as store:
        assert {e["id"] for e in store.events()} == {e["id"] for e in found.rows}
    bad = run(*both, "--video", "shed=/no/such.mp4")
    assert (bad.code, "1 of 3 sources failed: shed" in bad.err) == (1, True)
    assert {e["camera"] for e in bad.rows} == {"door", "garden"}
    for wrong, says in {
        ("--out", "o.mp4"): "--out: only for one",
        ("--retries", 1): "read once",
        ("--video", f"door={clip}"): "already",
    }.items():
        refused = run(*both, *wrong)
        assert (refused.code, says in refused.err) == (2, True), (wrong, refused.err)
