"""The file formats of the MS1M clustering benchmark (learn-to-cluster): `features/*.bin`,
`labels/*.meta` and `knns/*/faiss_k_80.npz`, and the clustering of what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.clustering_config import Config
from edgeface.cluster import Clusters, EdgeModel, cluster, neighbours
from edgeface.cluster.neighbours import Neighbours, self_first
from edgeface.cluster.people import checked
from edgeface.errors import DataError
from edgeface.metrics.clustering import (
    adjusted_rand_index,
    bcubed,
    normalized_mutual_information,
    pairwise,
)
from edgeface.types import Array
from export.protocols.identities import Labelled


def read_features(path: str | Path, dimension: int) -> Array:
    """(n, dimension) float32, mapped from the file: raw little-endian numbers, no header.

    Raises:
        DataError: missing, or its size is no multiple of a row.
    """
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a file of float32 features is needed") from (
            error
        )
    if dimension < 1 or size == 0 or size % (4 * dimension):
        raise DataError(
            f"{path}: {size} bytes are not rows of {dimension} float32; state the true --dim"
        )
    return np.memmap(path, np.dtype("<f4"), "r", shape=(size // (4 * dimension), dimension))


def write_features(path: str | Path, embeddings: Array) -> None:
    """Write what `read_features` reads."""
    np.ascontiguousarray(embeddings, "<f4").tofile(path)


def read_labels(path: str | Path) -> NDArray[np.int64]:
    """(n,) int64 identities, one decimal per line.

    Raises:
        DataError: missing or not integers.
    """
    try:
        return np.array([int(line) for line in Path(path).read_text().split()], np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; one integer identity per line is needed") from error


def write_labels(path: str | Path, labels: NDArray[np.int64] | NDArray[np.int32]) -> None:
    """Write what `read_labels` reads."""
    Path(path).write_text("".join(f"{label}\n" for label in labels.tolist()))


def read_neighbours(path: str | Path) -> Neighbours:
    """A kNN graph stored as `data` (n, 2, k): indices and distances 1 - cosine, oneself included.

    Raises:
        DataError: missing, damaged or of another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as raw:
            data = raw["data"]
        if data.ndim != 3 or data.shape[1] != 2:
            raise DataError(f"data is {data.shape}")
        indices = data[:, 0].astype(np.int32)
        if indices.min(initial=0) < -1 or indices.max(initial=-1) >= len(data):
            raise DataError("indices are out of range")
    except (OSError, ValueError, KeyError, EOFError, DataError) as error:
        raise DataError(f"{path}: {error}; an .npz with data (n, 2, k) is needed") from error
    return self_first(indices, (1.0 - data[:, 1]).astype(np.float32))


def write_neighbours(path: str | Path, near: Neighbours) -> None:
    """Write what `read_neighbours` reads."""
    data = np.stack([near.indices.astype(np.float32), 1.0 - near.similarities], axis=1)
    # float32 holds every index below 2^24, the benchmark's own limit.
    with Path(path).open("wb") as file:
        np.savez_compressed(file, data=data)


def cluster_features(
    config: Config, *, output: str | Path | None = None, model: EdgeModel | None = None
) -> tuple[Clusters, dict[str, float]]:
    """Cluster a features file of the benchmark, by the shipped edge model or another; with true
    labels the scores say how well; `output` receives the found labels, one per line. The kNN file
    is read, or where there is none yet, written with the nearest cosines, as the original does."""
    rows = read_features(config.features, config.dimension)
    near, file = None, config.neighbours
    if file is not None and file.exists():
        near = read_neighbours(file)
    elif file is not None:
        near = neighbours(checked(rows, None)[0], config.k)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_neighbours(file, near)
    found = cluster(rows, near=near, model=model)
    if output is not None:
        write_labels(output, found.labels)
    if config.labels is None:
        return found, {}
    return found, agreement(read_labels(config.labels), found.labels)


def agreement(truth: NDArray[np.int64], labels: NDArray[np.int32]) -> dict[str, float]:
    """What the benchmark's tables say of labels (n,)."""
    pairs, cubes = pairwise(truth, labels), bcubed(truth, labels)
    return {
        "pairwise_p": pairs.precision,
        "pairwise_r": pairs.recall,
        "pairwise_f": pairs.f,
        "bcubed_p": cubes.precision,
        "bcubed_r": cubes.recall,
        "bcubed_f": cubes.f,
        "nmi": normalized_mutual_information(truth, labels),
        "ari": adjusted_rand_index(truth, labels),
    }


def labelled(config: Config) -> Labelled:
    """The unit features of a part with its labels.

    Raises:
        DataError: it has no labels, or not one for each row.
    """
    rows = read_features(config.features, config.dimension)
    if config.labels is None:
        raise DataError(f"{config.features}: its labels are needed, a label_path beside it")
    truth = read_labels(config.labels)
    if len(truth) != len(rows):
        raise DataError(f"{config.labels}: {len(truth)} labels for {len(rows)} rows")
    return Labelled(checked(rows, None)[0], np.unique(truth, return_inverse=True)[1])
