"""A gallery as one table that other programs can read: `.npz` (numpy alone) or Parquet.

One row per sample; the columns are those of `Table`. The model digest travels along, as embeddings
of one model mean nothing to another. Exports are not encrypted.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.atomic import replacing
from edgeface.errors import DataError, GalleryError
from edgeface.gallery.records import Person, Provenance, Sample, check_name, printable
from edgeface.gallery.storage.tables import Tables
from edgeface.types import Array, Kind

FORMAT = 1
SAME = 1.0 - 1e-6  # cosine from which two embeddings of one person are one sample
_TEXT = ("name", "kind", "external_id", "metadata", "provenance", "source")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """n samples: `embedding` (n, d) float32, `quality` (n,) float32 with NaN for none, `created`
    (n,) float64 Unix time in s, `crop` n encoded pictures (empty for none), and `text`: the columns
    name, kind, external_id, metadata (JSON), provenance and source, each n strings."""

    model: str
    embedding: Array
    quality: Array
    created: NDArray[np.float64]
    crop: list[bytes]
    text: dict[str, list[str]]


def table(model: str, size: int, rows: list[tuple[Person, Sample]]) -> Table:
    """The rows of a gallery as columns."""
    return Table(
        model=model,
        embedding=np.array([s.embedding for _, s in rows], np.float32).reshape(-1, size),
        quality=np.array([np.nan if s.quality is None else s.quality for _, s in rows], np.float32),
        created=np.array([s.created for _, s in rows], np.float64),
        crop=[s.crop or b"" for _, s in rows],
        text={
            "name": [p.name for p, _ in rows],
            "kind": [str(p.kind) for p, _ in rows],
            "external_id": [p.external_id or "" for p, _ in rows],
            "metadata": [json.dumps(p.metadata, ensure_ascii=False) for p, _ in rows],
            "provenance": [str(s.provenance) for _, s in rows],
            "source": [s.source or "" for _, s in rows],
        },
    )


def write_npz(data: Table, path: Path) -> None:
    """Write `path` atomically. A text column is `NAME_values` (m,) and `NAME_index` (n,)."""
    arrays: dict[str, Any] = {
        "format": np.int64(FORMAT),
        "model": np.array(data.model),
        "embedding": data.embedding,
        "quality": data.quality,
        "created": data.created,
        "crop_bytes": np.frombuffer(b"".join(data.crop), np.uint8),
        "crop_length": np.array([len(c) for c in data.crop], np.int64),
    }
    for name in _TEXT:
        values, index = np.unique(np.array(data.text[name], np.str_), return_inverse=True)
        arrays[f"{name}_values"], arrays[f"{name}_index"] = values, index.astype(np.int64)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def read_npz(path: Path) -> Table:
    """The table in `path`; GalleryError when it is not one. Nothing is unpickled."""

    def read() -> Table:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            _check_format(arrays["format"], path)
            lengths, crops = arrays["crop_length"], arrays["crop_bytes"].tobytes()
            if lengths.dtype.kind not in "iu" or lengths.min(initial=0) < 0:
                raise DataError("a length is no number of bytes")
            ends = np.concatenate([[0], np.cumsum(lengths)])
            if ends[-1] != len(crops):
                raise DataError("the crops do not have the lengths stated")
            return Table(
                model=str(arrays["model"]),
                embedding=arrays["embedding"],
                quality=arrays["quality"],
                created=arrays["created"],
                crop=[crops[a:b] for a, b in itertools.pairwise(ends.tolist())],
                text={t: _chosen(arrays[f"{t}_values"], arrays[f"{t}_index"]) for t in _TEXT},
            )

    return _read(path, read)


def write_parquet(data: Table, path: Path) -> None:
    """Write `path` atomically; needs the extra `edgeface[parquet]`."""
    pa, parquet = _pyarrow()
    flat = pa.array(data.embedding.ravel(), pa.float32())
    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(flat, data.embedding.shape[1]),
        "quality": pa.array(data.quality, pa.float32()),
        "created": pa.array(data.created, pa.float64()),
        "crop": pa.array(data.crop, pa.binary()),
        **{name: pa.array(data.text[name], pa.string()) for name in _TEXT},
    }
    meta = {"edgeface.format": str(FORMAT), "edgeface.model": data.model}
    content = pa.table(columns).replace_schema_metadata(meta)
    with replacing(path) as file:
        parquet.write_table(content, file)


def read_parquet(path: Path) -> Table:
    """The table in `path`; GalleryError when it is not one."""
    _, parquet = _pyarrow()

    def read() -> Table:
        content = parquet.read_table(path)
        meta = content.schema.metadata or {}
        _check_format(meta[b"edgeface.format"], path)
        flat = content["embedding"].combine_chunks()
        return Table(
            model=meta[b"edgeface.model"].decode(),
            embedding=np.array(flat.flatten(), np.float32).reshape(len(flat), -1),
            quality=np.array(content["quality"], np.float32),
            created=np.array(content["created"], np.float64),
            crop=[crop or b"" for crop in content["crop"].to_pylist()],
            text={name: content[name].to_pylist() for name in _TEXT},
        )

    return _read(path, read)


def insert(tables: Tables, data: Table, rows: Array, revision: int) -> int:
    """Write `data` with its unit `rows` (n, d) in the open transaction; the number added."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(data.text["kind"], data.text["name"], strict=True)):
        groups.setdefault(key, []).append(i)
    added = 0
    for (kind, name), members in groups.items():
        if kind == Kind.STRANGER:
            person = tables.add_stranger(revision)
        else:
            person = _known(tables, data, name, members[0], revision)
        keep = members
        present = [s.embedding for s in tables.samples(person)]
        if present:
            nearest = (rows[members] @ np.stack(present).T).max(axis=1)
            keep = [i for i, s in zip(members, nearest, strict=True) if s < SAME]
        for provenance in Provenance:
            some = [i for i in keep if data.text["provenance"][i] == provenance]
            samples = tables.add_samples(
                person,
                rows[some],
                revision,
                provenance=provenance,
                qualities=[float(data.quality[i]) for i in some],
                sources=[data.text["source"][i] or None for i in some],
                crops=[data.crop[i] or None for i in some],
                created=[float(data.created[i]) for i in some],
            )
            added += len(samples)
    return added


def _known(tables: Tables, data: Table, name: str, first: int, revision: int) -> int:
    """The id of the person called `name`, made from row `first` if there is none."""
    name = check_name(name)
    found = tables.find(name)
    if found is not None:
        return found.id
    return tables.add_person(
        name,
        Kind.KNOWN,
        revision,
        external_id=data.text["external_id"][first] or None,
        metadata=json.loads(data.text["metadata"][first]),
    )


def _read(path: Path, read: Callable[[], Table]) -> Table:
    """What `read` gives, if it is sound. Whatever else a hostile or damaged file makes a library
    raise, from `zlib.error` to `MemoryError`, means that it is no export."""
    try:
        return _sound(read())
    except GalleryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise GalleryError(f"{path} is not a gallery export: {reason}") from error


def _check_format(value: Any, path: Path) -> None:
    if int(value) > FORMAT:
        raise GalleryError(f"{path} was written by a newer edgeface: update edgeface")


def _chosen(values: NDArray[Any], index: NDArray[Any]) -> list[Any]:
    if index.dtype.kind not in "iu":
        raise DataError("an index of texts is no array of whole numbers")
    return list(values[index].tolist())


def _sound(data: Table) -> Table:
    """The same table with every value of the kind it should be; DataError if one is not."""
    n = len(data.embedding)
    lengths = {len(data.quality), len(data.created), len(data.crop), *map(len, data.text.values())}
    if data.embedding.ndim != 2 or lengths != {n}:
        raise DataError("its columns differ in length")
    numbers = (data.embedding, data.quality, data.created)
    if any(column.dtype.kind != "f" for column in numbers):
        raise DataError("a column of numbers holds something else")
    if not np.isfinite(data.created).all() or np.isinf(data.quality).any():
        raise DataError("a time or a quality is not finite")
    if not all(isinstance(text, str) for column in data.text.values() for text in column):
        raise DataError("a column of texts holds something else")
    strange = set(data.text["kind"]) - set(Kind) | set(data.text["provenance"]) - set(Provenance)
    if strange:
        raise DataError(f"it holds {sorted(strange)[0]!r}")
    for metadata in set(data.text["metadata"]):
        if not isinstance(json.loads(metadata), dict):
            raise DataError("metadata is not a JSON object")
    for name in ("source", "external_id"):
        data.text[name] = [printable(text) for text in data.text[name]]
    return data


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise GalleryError(
            "Parquet needs pyarrow: pip install 'edgeface[parquet]', or use .npz"
        ) from error
    return pyarrow, pyarrow.parquet
