"""A folder of pictures through fake detection and embedding into people, and later more of them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeface.cluster import EdgeModel
from edgeface.errors import DataError
from edgeface.gallery import Gallery, Provenance
from edgeface.models import InputSpec, ModelCard
from edgeface.piles import cluster_folder, enroll_people
from edgeface.recognisability import ENROLLED
from edgeface.types import Face, Threshold

cv2 = pytest.importorskip("cv2")
PEOPLE = 12
POOR = 7  # the mark of a picture whose faces cannot be judged


def write_pictures(folder: Path, people: range, each: range, mark: int = 0) -> None:
    """Gray pictures whose level says who is on them."""
    folder.mkdir(parents=True, exist_ok=True)
    for person in people:
        for number in each:
            picture = np.full((120, 100, 3), level(person), np.uint8)
            picture[:8, :8], picture[:8, 92:] = number, mark
            assert cv2.imwrite(str(folder / f"p{person} & {number}.png"), picture)


def write_couple(path: Path, left: int, right: int) -> None:
    """Two people in one picture."""
    picture = np.full((120, 200, 3), level(left), np.uint8)
    picture[:, 100:] = level(right)
    assert cv2.imwrite(str(path), picture)


def level(person: int) -> int:
    return 20 + 15 * person


def detector(image: np.ndarray) -> list[Face]:
    if image[60, 50, 0] == 255:
        return []
    landmarks = np.array([[35, 45], [65, 45], [50, 62], [38, 80], [62, 80]], np.float32)
    box, score = np.array([20, 20, 80, 100], np.float32), 0.95
    doubtful = Face(np.array([0, 0, 9, 9], np.float32), landmarks / 8, 0.4)
    faces = [Face(box, landmarks, score)]
    if image.shape[1] == 200:
        faces.append(
            Face(box + np.float32([100, 0, 100, 0]), landmarks + np.float32([100, 0]), score)
        )
    return [*faces, doubtful]


class Levels:
    """An embedder without a measure of recognisability: quality judges."""

    size = 128
    card = ModelCard(
        "toy", "embedding", Path("no/toy.onnx"), "m" * 64, 128, Threshold(0.5, "card"),
        InputSpec("image"),
    )  # fmt: skip

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        rows = []
        for crop in crops:
            person = round((float(np.median(crop)) - 20) / 15)
            centre = np.random.default_rng(person).standard_normal(128)
            noise = np.random.default_rng(int(crop.sum()) % 2**31).standard_normal(128)
            rows.append(centre + 0.4 * noise)
        rows = np.array(rows, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def measure(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self(crops), np.ones(len(crops), np.float32)


embedder = Levels()


@pytest.fixture(autouse=True)
def trusted(monkeypatch) -> None:
    # Flat gray faces are unrecognisable to the real measure.
    monkeypatch.setattr("edgeface.describe.rate", lambda face, crop, size: 0.9)


@pytest.fixture
def some_poor(monkeypatch) -> None:
    """Faces of pictures with the mark POOR are of quality 0."""

    def read(source):
        image = original(source)
        monkeypatch.setattr(
            "edgeface.describe.rate",
            lambda face, crop, size: 0.0 if image[0, -1, 0] == POOR else 0.9,
        )
        return image

    from edgeface import images

    original = images.read
    monkeypatch.setattr("edgeface.piles.looking.images.read", read)


def run(photos: Path, output: Path, **options):
    return cluster_folder(photos, output, detector=detector, embedder=embedder, **options)


def who(result) -> dict[str, int]:
    return {row.name: row.person for row in result.rows}


def test_a_folder_becomes_people(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(PEOPLE), range(4))
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "raw.CR2").write_bytes(b"another format")
    assert cv2.imwrite(str(photos / "sky.png"), np.full((120, 100, 3), 255, np.uint8))
    seen = []
    result = run(photos, output, into="link", progress=lambda done, of: seen.append((done, of)))
    assert [p.name for p, _ in result.unreadable] == ["broken.jpg"]
    assert result.passed == ((".cr2", 1),)
    assert seen[-1] == (PEOPLE * 4 + 2, PEOPLE * 4 + 2)
    document = json.loads((output / "people.json").read_text())
    found = [{f["face"].split()[0] for f in p["faces"]} for p in document["people"]]
    assert sorted(map(sorted, found)) == sorted([f"p{i}"] for i in range(PEOPLE))
    with (output / "people.csv").open() as file:
        assert len(list(csv.DictReader(file))) == PEOPLE * 4
    links = sorted((output / "people").glob("*/*"))
    assert len(links) == PEOPLE * 4
    assert all(link.is_symlink() and link.resolve().parent == photos for link in links)


def test_faces_are_biometric_data_and_nobody_elses(tmp_path) -> None:
    write_pictures(tmp_path / "photos", range(4), range(3))
    old = os.umask(0)
    try:
        run(tmp_path / "photos", tmp_path / "out")
    finally:
        os.umask(old)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert "faces.sqlite" in modes


# What is nobody


def test_faces_that_cannot_be_judged_are_counted_and_folded_away(tmp_path, some_poor) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(6), range(3))
    write_pictures(photos / "poor", range(6), range(10, 15), mark=POOR)
    result = run(photos, output, into="link")
    assert result.unfit == 30
    assert all((row.person < 0) == row.name.startswith("poor") for row in result.rows)
    assert all(row.certainty == 0.0 for row in result.rows if row.person < 0)
    document = json.loads((output / "people.json").read_text())
    assert len(document["unfit"]) == 30
    assert {f["reason"] for f in document["unfit"]} == {"dark"}
    assert max(len(p["faces"]) for p in document["people"]) == 3
    assert not [p for p in (output / "people").glob("*/*") if "poor" in str(p.readlink())]


def test_certainty_falls_with_fitness(tmp_path, monkeypatch) -> None:
    write_pictures(tmp_path / "photos", range(6), range(4))
    monkeypatch.setattr("edgeface.piles.folder.fitness", lambda chance: 0.9)
    whole = {r.name: r.certainty for r in run(tmp_path / "photos", tmp_path / "out").rows}
    monkeypatch.setattr("edgeface.piles.folder.fitness", lambda chance: 0.8)
    half = {r.name: r.certainty for r in run(tmp_path / "photos", tmp_path / "out").rows}
    assert all(half[name] == pytest.approx(whole[name] * 64 / 81, abs=1e-6) for name in whole)


def test_two_faces_that_are_hard_to_recognise_make_no_person(tmp_path, monkeypatch) -> None:
    write_pictures(tmp_path / "photos", range(6), range(4))
    monkeypatch.setattr("edgeface.piles.folder.fitness", lambda chance: 0.6)
    people = list(who(run(tmp_path / "photos", tmp_path / "out")).values())
    assert len(set(people)) == len(people)


def test_doubtful_detections_do_not_count(tmp_path) -> None:
    write_pictures(tmp_path / "photos", range(4), range(3))
    assert len(run(tmp_path / "photos", tmp_path / "out").rows) == 12


# One picture


def test_two_faces_of_one_picture_are_two_people_unless_told(tmp_path) -> None:
    photos = tmp_path / "photos"
    write_pictures(photos, range(4), range(4))
    write_couple(photos / "twice.png", 1, 1)
    write_couple(photos / "couple.png", 2, 3)
    apart = who(run(photos, tmp_path / "out"))
    assert apart["twice.png#0"] != apart["twice.png#1"]
    assert apart["p1 & 0.png#0"] in {apart["twice.png#0"], apart["twice.png#1"]}
    assert apart["couple.png#0"] == apart["p2 & 0.png#0"]
    assert apart["couple.png#1"] == apart["p3 & 0.png#0"]
    told = who(run(photos, tmp_path / "told", collages=True))
    assert told["twice.png#0"] == told["twice.png#1"] == told["p1 & 0.png#0"]


@pytest.mark.parametrize("others", [0, 1, 5, 40])
def test_equal_pictures_show_the_same_people(tmp_path, others) -> None:
    photos = tmp_path / "photos"
    write_pictures(photos, range(1), range(1))
    shutil.copy(photos / "p0 & 0.png", photos / "copy.png")
    (photos / "more").mkdir()
    for number in range(others):
        picture = np.full((120, 100, 3), level(1 + number % 11), np.uint8)
        picture[:8, :8] = number
        assert cv2.imwrite(str(photos / "more" / f"{number}.png"), picture)
    people = who(run(photos, tmp_path / "out"))
    assert people["copy.png#0"] == people["p0 & 0.png#0"] >= 0


# Updates


def test_pictures_that_come_later_join_and_ids_stay(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(PEOPLE), range(4))
    before = who(run(photos, output))
    write_pictures(photos, range(3), range(4, 6))
    write_pictures(photos, range(PEOPLE, PEOPLE + 1), range(3))
    after = who(result := run(photos, output, update=True))
    assert {name: after[name] for name in before} == before
    assert after["p0 & 5.png#0"] == before["p0 & 0.png#0"]
    newcomers = {p for n, p in after.items() if n.startswith(f"p{PEOPLE} ")}
    assert newcomers.isdisjoint(before.values())
    journal = [json.loads(x) for x in (output / "journal.jsonl").read_text().splitlines()]
    assert {e["event"] for e in journal} == {"created", "joined"}
    assert "p0 & 5.png#0" in {f for e in journal for f in e["faces"]}
    again = run(photos, output, update=True)
    assert result.changes and not again.changes
    assert who(again) == after


def test_an_update_follows_what_was_deleted_replaced_and_moved(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(6), range(4))
    before = who(run(photos, output, into="link"))
    (photos / "p0 & 0.png").unlink()
    (photos / "p1 & 0.png").unlink()
    shutil.copy(photos / "p2 & 0.png", photos / "p1 & 0.png")
    picture = np.full((120, 100, 3), level(4), np.uint8)
    picture[:8, :8] = 99
    assert cv2.imwrite(str(photos / "p3 & 0.png"), picture)
    (photos / "trip").mkdir()
    (photos / "p5 & 0.png").rename(photos / "trip" / "renamed.png")
    (photos / "p5 & 1.png").touch()
    after = who(run(photos, output, update=True, into="link"))
    assert "p0 & 0.png#0" not in after
    assert after["p1 & 0.png#0"] == before["p2 & 0.png#0"]
    assert after["p3 & 0.png#0"] == before["p4 & 0.png#0"]
    assert after["trip/renamed.png#0"] == before["p5 & 0.png#0"]
    same = [n for n in before if n in after and n not in {"p1 & 0.png#0", "p3 & 0.png#0"}]
    assert all(after[n] == before[n] for n in same)
    links = list((output / "people").glob("*/*"))
    assert all(link.exists() for link in links), [x for x in links if not x.exists()]
    kinds = [json.loads(x)["event"] for x in (output / "journal.jsonl").read_text().splitlines()]
    assert "left" in kinds


def test_a_disk_that_is_not_mounted_deletes_nobody(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(4), range(3))
    before = who(run(photos, output))
    photos.rename(tmp_path / "elsewhere")
    photos.mkdir()
    with pytest.raises(DataError, match="none of the 12 pictures"):
        run(photos, output, update=True)
    photos.rmdir()
    (tmp_path / "elsewhere").rename(photos)
    assert who(run(photos, output, update=True)) == before


def test_what_is_not_the_persons_own_picture_is_not_looked_at(tmp_path) -> None:
    photos = tmp_path / "photos"
    write_pictures(photos, range(4), range(3))
    for name in ("@eaDir", ".thumbnails", "#recycle", "$RECYCLE.BIN", ".Trash-1000", "Trash"):
        write_pictures(photos / "a" / name, range(4), range(5, 6))
    shutil.copy(photos / "p0 & 0.png", photos / "._p0.png")
    output = photos / "sorted"
    first = who(run(photos, output, into="copy"))
    assert len(first) == 12
    assert who(run(photos, output, into="copy", update=True)) == first
    assert who(run(photos, photos / "second", into="copy")) == first


def test_a_killed_run_goes_on_where_it_was(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(PEOPLE), range(4))
    script = textwrap.dedent(
        """
        import os, sys, time
        sys.path.insert(0, sys.argv[3])
        import test_piles as t
        from edgeface import describe
        from edgeface.piles import store
        store.COMMIT_EVERY = 0.0
        describe.rate = lambda face, crop, size: 0.9
        seen = 0
        def detector(image):
            global seen
            seen += 1
            if seen == 31:
                print("now", flush=True)
                time.sleep(60)
            return t.detector(image)
        t.cluster_folder(sys.argv[1], sys.argv[2], detector=detector, embedder=t.embedder)
        """
    )
    words = [sys.executable, "-c", script, str(photos), str(output), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"now\n"
        child.send_signal(signal.SIGKILL)
    looked = []

    def counting(image):
        looked.append(1)
        return detector(image)

    result = cluster_folder(photos, output, detector=counting, embedder=embedder)
    assert len(looked) == PEOPLE * 4 - 30
    assert len(set(who(result).values())) == PEOPLE


def test_names_that_are_no_utf_8_and_formulas_are_written(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(4), range(3))
    odd = os.fsencode(photos) + b"/caf\xe9.png"
    shutil.copy(photos / "p0 & 0.png", odd)
    picture = np.full((120, 100, 3), level(1), np.uint8)
    picture[:8, :8] = 77
    assert cv2.imwrite(str(photos / "x.png"), picture)
    (photos / "x.png").rename(photos / "=1+1.png")
    result = run(photos, output, into="link")
    files = [
        f["file"]
        for p in json.loads((output / "people.json").read_text())["people"]
        for f in p["faces"]
    ]
    assert odd in [os.fsencode(f) for f in files]
    with (output / "people.csv").open(encoding="utf-8") as file:
        cells = [row["face"] for row in csv.DictReader(file)]
    assert "'=1+1.png#0" in cells
    assert "caf\\udce9.png#0" in cells
    assert "caf%E9.png" in (output / "report.html").read_text(encoding="utf-8")
    assert len(run(photos, output, update=True).rows) == len(result.rows)


def test_trouble_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        run(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="without an update first"):
        run(tmp_path / "empty", tmp_path / "out", update=True)
    with pytest.raises(DataError, match="no face in 0 pictures"):
        run(tmp_path / "empty", tmp_path / "out")


def test_embeddings_of_two_models_are_not_mixed(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(4), range(3))
    run(photos, output, model="one")
    with pytest.raises(DataError, match="another embedder"):
        run(photos, output, update=True, model="two")
    assert len(run(photos, output, model="two").rows) == 12


# What people do with the folders


def test_a_result_keeps_to_its_edge_model(tmp_path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(PEOPLE), range(3))
    apart = replace(EdgeModel.load(), threshold=2.0)  # no probability reaches it
    assert len(set(who(run(photos, out)).values())) == PEOPLE
    assert len(set(who(run(photos, out, edge_model=apart)).values())) == 3 * PEOPLE
    write_pictures(photos, range(PEOPLE), range(3, 5))
    assert len(set(who(run(photos, out, update=True)).values())) == 5 * PEOPLE
    with pytest.raises(DataError, match="made with another edge model"):
        run(photos, out, update=True, edge_model=EdgeModel.load())
    assert len(set(who(run(photos, out)).values())) == PEOPLE  # anew, with the shipped one


def test_a_renamed_folder_names_its_person(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(5), range(4))
    before = who(run(photos, output, into="link"))
    alice = before["p2 & 0.png#0"]
    (output / "people" / f"person-{alice:05d}").rename(output / "people" / "Alice Müller")
    write_pictures(photos, range(2, 3), range(4, 6))
    result = run(photos, output, update=True, into="link")
    labels = {row.name: row.label for row in result.rows}
    assert labels["p2 & 5.png#0"] == labels["p2 & 0.png#0"] == "Alice Müller"
    assert labels["p1 & 0.png#0"] == ""
    assert {p.name for p in (output / "people" / "Alice Müller").iterdir()} == {
        f"p2 & {i}.png" for i in range(6)
    }
    assert not (output / "people" / f"person-{alice:05d}").exists()
    named = json.loads((output / "people.json").read_text())["people"]
    assert {p["name"] for p in named} == {"Alice Müller", None}
    with pytest.raises(DataError, match="names given by hand"):
        run(photos, output)


def test_pictures_moved_into_another_folder_make_one_person(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(5), range(4))
    before = who(run(photos, output, into="link"))
    into, other = (output / "people" / f"person-{before[f'p{i} & 0.png#0']:05d}" for i in (1, 3))
    for entry in other.iterdir():
        entry.rename(into / entry.name)
    other.rmdir()
    write_pictures(photos, range(3, 4), range(4, 6))
    after = who(run(photos, output, update=True, into="link"))
    assert {after[n] for n in after if n[:3] in {"p1 ", "p3 "}} == {before["p1 & 0.png#0"]}
    assert len(list(into.iterdir())) == 10
    assert not other.exists()


# Into a gallery


def put(result, gallery):
    return enroll_people(result, gallery, threshold=Threshold(0.5, "user"))


def test_faces_that_are_hard_to_recognise_do_not_get_into_a_gallery(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(3), range(4))
    result = run(photos, output)
    hard = [
        replace(row, recognisability=ENROLLED - 0.01)
        if row.person == result.rows[0].person or row.name.endswith(" 3.png#0")
        else row
        for row in result.rows
    ]
    with Gallery.open(tmp_path / "g", model="m" * 64, size=128) as gallery:
        done = put(replace(result, rows=tuple(hard)), gallery)
        assert (done.created, done.added) == (2, 6)


def test_to_put_people_into_a_gallery_twice_adds_nothing(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(5), range(4))
    write_pictures(photos, range(5, 6), range(1))
    shutil.copy(photos / "p0 & 0.png", photos / "copy.png")
    result = run(photos, output)
    with Gallery.open(tmp_path / "g", model="m" * 64, size=128) as gallery:
        known = embedder(np.full((1, 112, 112, 3), level(2), np.uint8))
        gallery.enroll("Bea", known)
        done = put(result, gallery)
        assert (done.created, done.recognised, done.added) == (4, 1, 20)
        assert gallery.person("Bea").n_samples in {4, 5}  # the picture may be one they had
        assert [e.action for e in gallery.history()] == ["cluster", "enroll"]
        names = {p.name for p in gallery.people()} - {"Bea"}
        assert all(name.startswith("person-") for name in names)
        samples = [s for name in names for s in gallery.samples(name)]
        assert {s.provenance for s in samples} == {Provenance.CLUSTER}
        assert all(s.source and s.source.startswith(str(photos)) for s in samples)
        again = put(run(photos, output, update=True), gallery)
        assert (again.created, again.recognised, again.added) == (0, 5, 0)
        assert len(gallery.history()) == 2
        gallery.undo()
        assert [p.name for p in gallery.people()] == ["Bea"]


def test_a_name_of_another_pile_is_not_taken_for_the_same_person(tmp_path) -> None:
    write_pictures(tmp_path / "a", range(3), range(4))
    write_pictures(tmp_path / "b", range(3, 6), range(4))
    with Gallery.open(tmp_path / "g", model="m" * 64, size=128) as gallery:
        put(run(tmp_path / "a", tmp_path / "out-a"), gallery)
        put(run(tmp_path / "b", tmp_path / "out-b"), gallery)
        assert len(gallery.people()) == 6
        assert all(p.n_samples == 4 for p in gallery.people())
        gallery.rename("person-00000", "Ann")
        assert {s.provenance for s in gallery.samples("Ann")} == {Provenance.USER}
