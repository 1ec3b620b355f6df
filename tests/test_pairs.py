"""Lists of pairs: read, compared, judged."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.describe import Describer
from edgeface.errors import ArgumentError, DataError
from edgeface.metrics import best_f1_threshold, verified
from edgeface.pairs import Pair, compare_pairs, read_pairs


def test_a_list_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("A/A_1.jpg A/A_2.jpg 1\n\nA/A_1.jpg  B/B_1.jpg 0\nmy a.jpg\tb.jpg\t1\n")
    root = Path("lfw")
    assert read_pairs(file, root) == [
        Pair(root / "A/A_1.jpg", root / "A/A_2.jpg", True),
        Pair(root / "A/A_1.jpg", root / "B/B_1.jpg", False),
        Pair(root / "my a.jpg", root / "b.jpg", True),
    ]


@pytest.mark.parametrize("line", ["a.jpg b.jpg", "a.jpg b.jpg 2", "a b.jpg c.jpg 1", "\xff"])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "pairs.txt"
    file.write_bytes(f"a.jpg b.jpg 1\n{line}\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2|expected a text file"):
        read_pairs(file, tmp_path)
    file.write_text("\n")
    with pytest.raises(DataError, match="no pairs"):
        read_pairs(file, tmp_path)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_has_a_higher_f1_than_the_best(pairs: list[tuple[int, bool]]) -> None:
    similarity = np.array([s for s, _ in pairs]) / 5
    same = np.array([t for _, t in pairs])
    if same.all() or not same.any():
        with pytest.raises(ArgumentError, match="pairs of two are needed"):
            verified(similarity, same, 0.0)
        return
    best = best_f1_threshold(similarity, same)
    every = [verified(similarity, same, t / 10) for t in range(-11, 12)]
    assert verified(similarity, same, best).f1 == max(v.f1 for v in every)
    for v in every:
        accepted = similarity >= v.threshold
        assert v.accuracy == np.mean(accepted == same)
        assert v.recall == np.mean(accepted[same])
        assert v.precision == (np.mean(same[accepted]) if accepted.any() else 1.0)
        both = v.precision + v.recall
        assert v.f1 == pytest.approx(2 * v.precision * v.recall / both if v.recall else 0.0)


def test_every_picture_is_looked_at_once_and_bad_ones_cost_their_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from edgeface import pairs
    from edgeface.errors import ImageError

    looked: list[str] = []

    def one_face(describer: object, picture: Path, policy: str) -> SimpleNamespace:
        looked.append(picture.name)
        if picture.name == "bad":
            raise ImageError("bad shows no face")
        row = np.array([1.0, 0.0]) if picture.name.startswith("a") else np.array([0.6, 0.8])
        return SimpleNamespace(embedding=row.astype(np.float32))

    monkeypatch.setattr(pairs, "one_face", one_face)
    names = [("a1", "a2", True), ("a1", "b", False), ("b", "bad", True), ("b", "b", True)]
    listed = [Pair(Path(x), Path(y), s) for x, y, s in names]
    told: list[object] = []
    describer: Describer = None  # type: ignore[assignment]
    found = compare_pairs(describer, listed, on_bad=told.append)
    assert sorted(looked) == ["a1", "a2", "b", "bad"] and len(told) == 1
    assert found.pairs == (listed[0], listed[1], listed[3])
    assert found.similarity == pytest.approx([1.0, 0.6, 1.0])
    assert found.same.tolist() == [True, False, True]


def test_the_command_judges_a_list_and_writes_the_scores(tmp_path: Path, sample: Path, run) -> None:
    (tmp_path / "set").mkdir()
    portrait = cv2.imread(str(sample / "eileen.jpg"))
    capture = cv2.VideoCapture(str(sample / "clip.mp4"))
    frames = [capture.read()[1] for _ in range(91)]
    cv2.imwrite(str(tmp_path / "set" / "b.png"), frames[90][:, 330:])
    cv2.imwrite(str(tmp_path / "set" / "a.png"), portrait)
    cv2.imwrite(str(tmp_path / "set" / "a2.png"), portrait[:, ::-1])
    file = tmp_path / "pairs.txt"
    file.write_text("a.png a2.png 1\na.png a.png 1\na.png b.png 0\na.png gone.png 0\n")
    words = ["verify", "--pairs", str(file), "--root", str(tmp_path / "set"), "--json"]
    code, out, err = run(*words, "--scores", str(tmp_path / "scores.csv"), "--distinct")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1  # one picture is not there
    assert "gone.png" in err and "1 of 2 pairs of one person are a file with itself" in err
    assert rows[0]["origin"].startswith("card:") and rows[0]["f1"] == rows[0]["accuracy"] == 1.0
    assert rows[1]["f1"] == rows[2]["accuracy"] == 1.0
    assert [r["threshold"] for r in rows[3:]] == [round(0.05 * i, 4) for i in range(20)]
    assert rows[3]["recall"] == 1.0
    with (tmp_path / "scores.csv").open() as stream:
        scores = list(csv.DictReader(stream))
    assert [s["same"] for s in scores] == ["1", "0"]
    assert float(scores[0]["similarity"]) > 0.8 and float(scores[1]["similarity"]) < 0.5
    for wrong in (["verify", "a.png"], ["verify", "a", "b", "--distinct"], [*words, "--exit-code"]):
        assert run(*wrong)[0] == 2
