"""Templates from lists of IJB's form, against the same written out picture by picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx.reference import ReferenceEvaluator

from bench import templates
from bench.__main__ import main
from bench.templates_faces import of_images
from edgeface.alignment import TEMPLATE
from edgeface.embed import Embedder
from edgeface.errors import DataError
from edgeface.models import load_card
from export.protocols.ijb import read_marks, read_pictures

PEOPLE, SIZE = 24, 128


def write(folder: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Lists of three templates of each person, of one to four media of one to three pictures, in no
    order, and what an embedder might have made of the pictures."""
    faces = [
        (f"img/{100 * t + 10 * m + i}.jpg", t, 1000 + (7 * t + m) % 50)
        for t in range(3 * PEOPLE)
        for m in range(rng.integers(1, 5))
        for i in range(rng.integers(1, 4))
    ]
    faces = [faces[i] for i in rng.permutation(len(faces))]
    template = np.array([t for _, t, _ in faces])
    person = np.arange(3 * PEOPLE) // 3
    centres = rng.normal(size=(PEOPLE, SIZE))
    spread = rng.uniform(0.5, 6, size=(len(faces), 1))
    features = centres[person[template]] + spread * rng.normal(size=(len(faces), SIZE))
    features = (features / np.sqrt(spread)).astype(np.float32)
    scores = np.round(rng.uniform(0.3, 1, len(faces)), 4)
    (folder / "toy_face_tid_mid.txt").write_text(
        "".join(f"{name} {10 * t} {m}\n" for name, t, m in faces)
    )
    points = " ".join(f"{v:.3f}" for v in TEMPLATE.ravel())
    (folder / "toy_name_5pts_score.txt").write_text(
        "".join(f"{f[0]} {points} {s}\n" for f, s in zip(faces, scores, strict=True))
    )
    a, b = np.triu_indices(len(person), 1)
    (folder / "toy_template_pair_label.txt").write_text(
        "".join(
            f"{10 * i} {10 * j} {int(person[i] == person[j])}\n" for i, j in zip(a, b, strict=True)
        )
    )
    head = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n"
    for half in (0, 1):
        rows = [f"{10 * t},{500 - person[t]},x.jpg\n" for t in range(half * 3, 3 * PEOPLE, 6)]
        (folder / f"toy_1N_gallery_G{half + 1}.csv").write_text(head + "".join(rows + rows[:1]))
    probes = [f"{10 * t},{500 - person[t]},x.jpg\n" for t in range(3 * PEOPLE) if t % 3]
    (folder / "toy_1N_probe_mixed.csv").write_text(head + "".join(probes))
    np.save(folder / "features.npy", features)
    return {
        "features": features.astype(np.float64), "quality": scores.astype(np.float32),
        "template": template, "medium": np.array([m for _, _, m in faces]), "person": person,
    }  # fmt: skip


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def written_out(toy: dict[str, np.ndarray], way: str, *, flat: bool) -> np.ndarray:
    """Every template, picture by picture."""
    card = load_card("mobilefacenet")
    assert card.fusion is not None
    update, readout = (
        ReferenceEvaluator(str(f.path)) for f in (card.fusion.update, card.fusion.readout)
    )
    fused = []
    for t in range(len(toy["person"])):
        own = toy["template"] == t
        media = [own] if flat else [
            own & (toy["medium"] == m) for m in np.unique(toy["medium"][own])
        ]  # fmt: skip
        template = np.zeros(SIZE)
        for medium in media:
            total, moment = np.zeros(SIZE), np.zeros((SIZE, SIZE))
            shares: list[np.ndarray] = []
            tokens, weighed = np.zeros(1), np.zeros(1)
            for i in np.flatnonzero(medium):
                raw, say = toy["features"][i], float(toy["quality"][i])
                f = unit(raw)
                if way == "learned":
                    share, token, weight = update.run(
                        ["share", "token", "weight"],
                        {"embedding": f[None].astype(np.float32), "quality": np.float32([say])},
                    )
                    shares.append(share[0])
                    tokens = tokens + share[0][:, None] * token
                    weighed = weighed + share[0][:, None] * f
                    say, mass = float(weight[0, 0]), float(share.sum())
                else:
                    mass = {"average": 1.0, "norm": float(np.linalg.norm(raw))}.get(way, say)
                    shares.append(np.array([mass]))
                total += mass * f
                moment += say * np.outer(f, f)
            if way in {"average", "norm"}:
                template += total / medium.sum()
                continue
            mean = total
            if way == "learned":
                sums = {"total": weighed, "mass": np.sum(shares, axis=0), "tokens": tokens}
                feed = {k: v[None].astype(np.float32) for k, v in sums.items()}
                mean = readout.run(None, feed)[0][0]
            agreement = np.linalg.norm(total) / np.sum(shares)
            template += agreement * unit(moment @ mean)
        fused.append(unit(template))
    return np.stack(fused)


def expected(rows: np.ndarray, person: np.ndarray) -> dict[str, float]:
    """Rates of 1:1 and 1:N, counted."""
    cosine = rows @ rows.T
    a, b = np.triu_indices(len(rows), 1)
    same = person[a] == person[b]
    found = {}
    impostors = np.sort(cosine[a, b][~same])[::-1]
    for far in (1e-3, 1e-2, 1e-1):
        allowed = int(far * len(impostors) + 1e-9)
        found[f"tar_at_far{far:.0e}"] = 100 * np.mean(cosine[a, b][same] > impostors[allowed])
    probes = np.flatnonzero(np.arange(len(rows)) % 3)
    for name in ("rank1", "rank5", "tpir_at_fpir1e-01"):
        values = []
        for half in (0, 1):
            gallery = np.arange(half * 3, len(rows), 6)
            ranks, highest, foreign = [], [], []
            for p in probes:
                similar = cosine[p, gallery]
                if person[p] in person[gallery]:
                    own = similar[person[gallery] == person[p]][0]
                    ranks.append(1 + int((similar > own).sum()))
                    highest.append(similar.max())
                else:
                    foreign.append(similar.max())
            if name.startswith("rank"):
                values.append(np.mean(np.array(ranks) <= int(name[4:])))
            else:
                limit = np.sort(foreign)[::-1][int(0.1 * len(foreign) + 1e-9)]
                values.append(np.mean((np.array(ranks) == 1) & (np.array(highest) > limit)))
        found[name] = 100 * float(np.mean(values))
    return found


def run(folder: Path, **options: object) -> dict[str, float | str | None]:
    given = {"meta": folder, "images": None, "features": folder / "features.npy",
             "model": "mobilefacenet", "flat": False, "threads": 1, "quick": False}  # fmt: skip
    return templates.figures(argparse.Namespace(**given | options))


@pytest.mark.parametrize("flat", [False, True])
def test_every_way_and_rate_is_that_of_the_pictures_written_out(
    tmp_path: Path, rng: np.random.Generator, flat: bool
) -> None:
    toy = write(tmp_path, rng)
    found = run(tmp_path, flat=flat)
    pictures = read_pictures(tmp_path)
    described = templates.of_file(tmp_path / "features.npy", pictures, tmp_path)
    fuses = templates.ways(described, load_card("mobilefacenet"))
    every, fused = templates.fuse(pictures, described, fuses, flat=flat)
    assert every.tolist() == [10 * t for t in range(3 * PEOPLE)]
    assert list(fused) == ["average", "norm", "closed", "learned"]
    for way, rows in fused.items():
        reference = written_out(toy, way, flat=flat)
        # The network computes in float32, in another order than the reference.
        assert np.abs(rows - reference).max() < (2e-5 if way == "learned" else 1e-6), way
        for name, value in expected(rows.astype(np.float64), toy["person"]).items():
            assert found[f"templates.{name}.{way}"] == pytest.approx(value, abs=1e-6), (way, name)
    assert found["templates.tar_at_far1e-06.norm"] is None  # of 2,484 impostors
    assert found["templates.pairs.impostor"] == 72 * 71 / 2 - 72
    tars = [found[f"templates.tar_at_far1e-02.{way}"] for way in fused]
    assert len(set(tars)) > 1 and 0 < min(tars) < 100  # the ways do differ


def test_pictures_are_aligned_by_their_marks_and_one_bad_one_costs_only_itself(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = rng.integers(0, 256, (4, 7, 7, 3), dtype=np.uint8).astype(np.float32)
    crops = np.stack([cv2.resize(c, (112, 112)) for c in crops]).astype(np.uint8)
    shift = np.array([30, 20])
    lines = {"face_tid_mid": "", "name_5pts_score": ""}
    for i, crop in enumerate(crops):
        image = np.zeros((150, 170, 3), np.uint8)
        image[20:132, 30:142] = crop
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        lines["face_tid_mid"] += f"{i}.png {i} {i}\n"
        points = " ".join(f"{v:.4f}" for v in (TEMPLATE + shift).ravel())
        lines["name_5pts_score"] += f"{i}.png {points} 0.9\n"
    for name, text in lines.items():
        (tmp_path / f"toy_{name}.txt").write_text(text)
    (tmp_path / "2.png").write_bytes(b"no picture")
    pictures = read_pictures(tmp_path)
    card = load_card("mobilefacenet")
    marks = read_marks(tmp_path, pictures)
    found = of_images(tmp_path, pictures, marks, card, 1)
    assert "passed over" in capsys.readouterr().err
    plain = Embedder.load("mobilefacenet", runtime="onnxruntime", threads=1)(crops)
    kept = [0, 1, 3]
    assert ((found.embedding[kept] * plain[kept]).sum(axis=1) > 0.9999).all()
    assert found.norm[2] == 0 and (found.norm[kept] != 1).all() and (found.quality[kept] > 0).all()
    fuses = templates.ways(found, None)
    every, fused = templates.fuse(pictures, found, fuses, flat=False)
    assert len(every) == 4 and all(not rows[2].any() for rows in fused.values())


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("toy_face_tid_mid.txt", "img/x.jpg 5", "line .*: expected a name and 2 numbers"),
        ("toy_name_5pts_score.txt", "img/x.jpg" + " 1" * 11, "expected the .* in their order"),
        ("toy_template_pair_label.txt", "0 10", "expected TEMPLATE TEMPLATE SAME"),
        ("toy_template_pair_label.txt", "0 10 2", "SAME 0 or 1"),
        ("toy_template_pair_label.txt", "0 7 1", "there is no picture of template 7"),
        ("toy_1N_gallery_G1.csv", "9999,500", "there is no picture of template 9999"),
        ("toy_1N_gallery_G1.csv", "10,500", "expected one template for each person"),
        ("toy_1N_probe_mixed.csv", "x,500", "expected TEMPLATE,PERSON"),
    ],
)
def test_a_wrong_line_is_named(
    tmp_path: Path, rng: np.random.Generator, file: str, line: str, message: str
) -> None:
    write(tmp_path, rng)
    with (tmp_path / file).open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=message):
        run(tmp_path, model=None)


def test_what_is_missing_is_one_line(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["templates", "--meta", str(tmp_path), "--features", "none.npy"]) == 1
    assert "expected one file *_face_tid_mid.txt" in capsys.readouterr().err
    assert main(["templates", "--meta", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("bench: --meta needs")
    write(tmp_path, rng)
    meta = ["templates", "--meta", str(tmp_path)]
    assert main([*meta, "--features", str(tmp_path / "toy_face_tid_mid.txt")]) == 1
    assert "numpy.save" in capsys.readouterr().err
    np.save(tmp_path / "few.npy", np.ones((3, 8), np.float32))
    assert main([*meta, "--features", str(tmp_path / "few.npy")]) == 1
    assert "a row for every line" in capsys.readouterr().err
