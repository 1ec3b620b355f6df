"""A folder of pictures through fake detection and embedding into people, and later more of them."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeface.cluster import neighbours
from edgeface.cluster.files import write_features, write_labels, write_neighbours
from edgeface.errors import DataError
from edgeface.piles import cluster_features, cluster_folder
from edgeface.types import Face

cv2 = pytest.importorskip("cv2")
PEOPLE = 12


def write_pictures(folder: Path, people: range, each: range) -> None:
    """Gray pictures whose level says who is on them."""
    folder.mkdir(parents=True, exist_ok=True)
    for person in people:
        for number in each:
            level = 20 + 15 * person
            picture = np.full((120, 100, 3), level, np.uint8)
            picture[:8, :8] = number
            assert cv2.imwrite(str(folder / f"p{person} & {number}.png"), picture)


def detector(image: np.ndarray) -> list[Face]:
    if image[60, 50, 0] == 255:
        return []
    landmarks = np.array([[35, 45], [65, 45], [50, 62], [38, 80], [62, 80]], np.float32)
    return [Face(np.array([20, 20, 80, 100], np.float32), landmarks, 0.95)]


def embedder(crops: np.ndarray) -> np.ndarray:
    rows = []
    for crop in crops:
        person = round((float(np.median(crop)) - 20) / 15)
        rng = np.random.default_rng(person)
        centre = rng.standard_normal(128)
        noise = np.random.default_rng(int(crop.sum()) % 2**31).standard_normal(128)
        rows.append(centre + 0.4 * noise)
    rows = np.array(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def trusted(monkeypatch) -> None:
    # Flat gray faces are unrecognisable to the real measure.
    monkeypatch.setattr("edgeface.piles.rate", lambda face, crop, size: 0.9)


def run(photos: Path, output: Path, **options):
    return cluster_folder(photos, output, detector=detector, embedder=embedder, **options)


def test_a_folder_becomes_people(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(PEOPLE), range(4))
    (photos / "broken.jpg").write_bytes(b"no picture")
    assert cv2.imwrite(str(photos / "sky.png"), np.full((120, 100, 3), 255, np.uint8))
    result = run(photos, output, into="link")
    assert [p.name for p, _ in result.unreadable] == ["broken.jpg"]
    document = json.loads((output / "people.json").read_text())
    who = [{f["face"].split()[0] for f in p["faces"]} for p in document["people"]]
    assert sorted(map(sorted, who)) == sorted([f"p{i}"] for i in range(PEOPLE))
    with (output / "people.csv").open() as file:
        assert len(list(csv.DictReader(file))) == PEOPLE * 4
    links = sorted((output / "people").glob("*/*"))
    assert len(links) == PEOPLE * 4
    assert all(link.is_symlink() and link.resolve().parent == photos for link in links)


def test_pictures_that_come_later_join_and_ids_stay(tmp_path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(PEOPLE), range(4))
    before = {r.name: r.person for r in run(photos, output).rows}
    write_pictures(photos, range(3), range(4, 6))
    write_pictures(photos, range(PEOPLE, PEOPLE + 1), range(3))
    result = run(photos, output, update=True)
    after = {r.name: r.person for r in result.rows}
    assert {name: after[name] for name in before} == before
    assert after["p0 & 5.png#0"] == before["p0 & 0.png#0"]
    newcomers = {p for n, p in after.items() if n.startswith(f"p{PEOPLE} ")}
    assert newcomers.isdisjoint(before.values())
    journal = [json.loads(x) for x in (output / "journal.jsonl").read_text().splitlines()]
    assert {e["event"] for e in journal} == {"created", "joined"}
    again = run(photos, output, update=True)
    assert not again.changes
    assert {r.name: r.person for r in again.rows} == after


def test_trouble_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        run(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no face in 0 pictures"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="without --update first"):
        run(tmp_path / "empty", tmp_path / "out", update=True)


def test_the_page_opens_in_a_browser(tmp_path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_pictures(photos, range(PEOPLE), range(3))
    run(photos, output)
    page = output / "report.html"
    assert not re.search(r'(src|href)="(?!data:)', page.read_text())
    shown = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env={**os.environ, "HOME": str(tmp_path)},
    ).stdout
    assert f"<h1>{PEOPLE} people in {PEOPLE * 3} faces</h1>" in shown
    assert shown.count("<section") == PEOPLE
    assert shown.count("data:image/jpeg;base64,") == PEOPLE * 3
    assert shown.count("<circle") == PEOPLE * 3
    assert "p0 & 0.png#0" in html.unescape(shown)


def test_the_benchmark_files_give_scores(tmp_path) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(40), 15)
    rows = rng.standard_normal((40, 64))[truth] + 0.5 * rng.standard_normal((600, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    write_features(tmp_path / "f.bin", rows)
    write_labels(tmp_path / "f.meta", truth)
    write_neighbours(tmp_path / "k.npz", neighbours(rows, 80))
    found, scores = cluster_features(
        tmp_path / "f.bin",
        64,
        labels=tmp_path / "f.meta",
        neighbours=tmp_path / "k.npz",
        output=tmp_path / "found.meta",
    )
    assert len(found.labels) == 600
    assert scores["bcubed_f"] >= 0.97
    assert len((tmp_path / "found.meta").read_text().split()) == 600
    assert cluster_features(tmp_path / "f.bin", 64)[1] == {}
    again, _ = cluster_features(tmp_path / "f.bin", 64, neighbours=tmp_path / "new" / "k.npz")
    assert np.array_equal(again.labels, found.labels)
    made = np.load(tmp_path / "new" / "k.npz")["data"]
    given = np.load(tmp_path / "k.npz")["data"]
    assert np.array_equal(made[:, 0], given[:, 0])
    assert np.allclose(made[:, 1], given[:, 1], atol=1e-6)


def test_the_command_line_of_the_benchmark(tmp_path, capsys, monkeypatch) -> None:
    from edgeface.cli import main

    def cluster(*words):
        monkeypatch.setattr(sys, "argv", ["edgeface", "cluster", *words, "--json"])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr().out

    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(30), 8)
    rows = rng.standard_normal((30, 32))[truth] + 0.4 * rng.standard_normal((240, 32))
    write_features(tmp_path / "part1_test.bin", rows.astype(np.float32))
    write_labels(tmp_path / "part1_test.meta", truth)
    monkeypatch.chdir(tmp_path)
    words = ["--features", "part1_test.bin", "--dim", "32", "--labels", "part1_test.meta"]
    code, shown = cluster(*words, "--knn", "knns/faiss_k_80.npz", "--out", "out")
    assert code == 0
    first = json.loads(shown)
    assert first["faces"] == 240
    assert first["bcubed_f"] > 0.9
    assert len((tmp_path / "out" / "labels.meta").read_text().split()) == 240
    assert cluster("--config", "out/config.yaml", "--out", "again") == (0, shown)
    assert cluster("--config", "part1_test.meta")[0] == 1
    assert cluster("--config", "out/config.yaml", "photos")[0] == 2
