"""The pictures that `bench templates` fuses: embedded, or read from a file of embeddings, and the
video frames of the test data written as lists of IJB's form."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edgeface.alignment import TEMPLATE, align
from edgeface.errors import DataError
from edgeface.models import ModelCard
from edgeface.quality import rate
from edgeface.runtime import open_model
from edgeface.types import Face
from export.protocols.ijb import Marks, Pictures, read_marks
from export.protocols.pictures import read

Floats = NDArray[np.float32]

BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """The pictures as an embedder sees them: unit `embedding` (n, d), `norm` (n,) before it was
    unit, `quality` (n,) in [0, 1]. A picture that could not be read has norm and quality 0."""

    embedding: Floats
    norm: Floats
    quality: Floats

    @classmethod
    def of(cls, raw: Floats, quality: Floats) -> Described:
        """From embeddings as the network gave them; rows that are not finite become 0."""
        lost = np.asarray(~np.isfinite(raw).all(axis=1))
        if lost.any():
            print(f"templates: {int(lost.sum())} pictures without embedding", file=sys.stderr)
            raw, quality = np.where(lost[:, None], 0, raw), np.where(lost, 0, quality)
        norm = np.linalg.norm(raw, axis=1)
        unit = raw / np.maximum(norm, 1e-12)[:, None]
        return cls(np.asarray(unit, np.float32), np.asarray(norm, np.float32), quality)


def of_images(
    folder: Path, pictures: Pictures, marks: Marks, card: ModelCard, threads: int
) -> Described:
    """Every picture aligned by its marks and embedded. What cannot be read is told and left out."""
    session = open_model(card, runtime="onnxruntime", threads=threads)
    raw = np.full((len(pictures.files), card.size), np.nan, np.float32)
    quality = np.zeros(len(raw), np.float32)
    for start in range(0, len(raw), BATCH):
        rows, crops = [], []
        for i in range(start, min(start + BATCH, len(raw))):
            try:
                image = read(folder / pictures.files[i])
            except DataError as error:
                print(f"templates: passed over {error}", file=sys.stderr)
                continue
            points = marks.landmarks[i]
            box = np.concatenate([points.min(axis=0), points.max(axis=0)])
            face = Face(box, points, float(marks.score[i]))
            crops.append(align(image, [face])[0])
            quality[i] = rate(face, crops[-1], image.shape[:2])
            rows.append(i)
        if rows:
            found = session.run({card.input.name: card.input.tensor(np.stack(crops))})
            raw[rows] = found[card.output("embedding")]
            if "norm" in found:
                raw[rows] *= found["norm"].reshape(-1, 1)
        if start % (BATCH * 32) == 0:
            print(f"\rtemplates: {start}/{len(raw)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return Described.of(raw, quality)


def of_file(file: Path, pictures: Pictures, meta: Path) -> Described:
    """Embeddings of a file; their quality is the file's or the detector's score."""
    named = arrays(file)
    if "features" not in named:
        raise DataError(f"{file}: expected an array `features`, found {', '.join(named)}")
    raw = np.asarray(named["features"], np.float32)
    if raw.ndim != 2 or len(raw) != len(pictures.files):
        raise DataError(
            f"{file}: expected ({len(pictures.files)}, d) features, a row for every line of "
            f"*_face_tid_mid.txt, got {raw.shape}"
        )
    stored = named.get("quality")
    quality = np.asarray(read_marks(meta, pictures).score if stored is None else stored, np.float32)
    if quality.shape != (len(raw),) or not ((quality >= 0) & (quality <= 1)).all():
        raise DataError(f"{file}: expected a quality in [0, 1] for each of {len(raw)} pictures")
    return Described.of(raw, quality)


def arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of an .npz by name, or that of an .npy, mapped, as `features`.

    Raises:
        DataError: it is neither.
    """
    try:
        if file.suffix == ".npy":
            return {"features": np.load(file, mmap_mode="r")}
        with np.load(file) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{file}: expected a file that numpy.save or numpy.savez wrote") from error


def sequences(root: Path, meta: Path, every: int) -> None:
    """Write the lists of a folder of PERSON/VIDEO_FRAME.webp, aligned crops, of one person in
    `every`: a medium is a video, and a person's videos are dealt out to two templates, where there
    are two. All pairs are compared; the first template of everybody is in one of two galleries, the
    second is searched for."""
    people = sorted(p for p in root.iterdir() if p.is_dir())[::every] if root.is_dir() else []
    faces: list[tuple[str, int, int]] = []
    whose: list[int] = []
    first: list[bool] = []
    for person, folder in enumerate(people):
        videos = sorted({f.stem.partition("_")[0] for f in folder.glob("*.webp")})
        for half in (0, 1):
            own = videos[half::2]
            if own:
                whose.append(person)
                first.append(half == 0)
            faces += [
                (str(f.relative_to(root)), len(whose), 100 * person + int(video))
                for video in own
                for f in sorted(folder.glob(f"{video}_*.webp"))
            ]
    if not faces:
        raise DataError(f"{root}: no sequences; --shared names the test data, --meta your lists")
    meta.mkdir(parents=True, exist_ok=True)
    lists = {
        "face_tid_mid.txt": [f"{name} {t} {m}" for name, t, m in faces],
        "name_5pts_score.txt": [
            " ".join([name, *(f"{v:.4f}" for v in TEMPLATE.ravel()), "0.99"]) for name, *_ in faces
        ],
        "template_pair_label.txt": [
            f"{a + 1} {b + 1} {int(whose[a] == whose[b])}"
            for a in range(len(whose))
            for b in range(a)
        ],
    }
    head = "TEMPLATE_ID,SUBJECT_ID"
    rows = [f"{t + 1},{p}" for t, p in enumerate(whose)]
    for half in (0, 1):
        lists[f"1N_gallery_G{half + 1}.csv"] = [
            head, *(r for r, p, f in zip(rows, whose, first, strict=True) if f and p % 2 == half)
        ]  # fmt: skip
    lists["1N_probe_mixed.csv"] = [head, *(r for r, f in zip(rows, first, strict=True) if not f)]
    for part, lines in lists.items():
        (meta / f"sequences_{part}").write_text("".join(f"{line}\n" for line in lines))
