"""The configuration files of On Mitigating Hard Clusters for the MS1M parts, as far as they say
which data to cluster.

The files are YAML of two levels with anchors; this reads and writes that much of YAML and no more.
How the original clusters (`density_args`, `cluster_args`, `model_args`) does not apply here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgeface.errors import DataError

Values = dict[str, str]
TEST, TRAIN = "test_dataset_args", "dataset_args"  # sections of the original's files


@dataclass(frozen=True, slots=True)
class Config:
    """Where a part of the benchmark lies: `features` of `dimension` numbers, true `labels` and
    `neighbours`, both of which may be absent, `k` neighbours per face, oneself included."""

    features: Path
    dimension: int
    labels: Path | None
    neighbours: Path | None
    k: int

    @classmethod
    def read(cls, path: str | Path, section: str = TEST) -> Self:
        """The test part of a configuration file, or that under `section`; paths are taken as they
        stand there.

        Raises:
            DataError: missing, not such a file, or without features.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            found = _sections(text).get(section, {})
            return cls(
                Path(found["feature_path"]),
                int(found["feature_dim"]),
                Path(found["label_path"]) if found.get("label_path") else None,
                Path(found["knn_path"]) if found.get("knn_path") else None,
                int(found.get("model_topk", "80")),
            )
        except (OSError, ValueError, KeyError, DataError) as error:
            raise DataError(
                f"{path}: {error!r}; a configuration with feature_path and feature_dim under "
                f"{section} is needed"
            ) from error

    def write(self, path: str | Path) -> None:
        """Write what `read` reads, in the original's keys."""
        lines = [f"{TEST}:", f'  feature_path: "{self.features}"']
        if self.labels is not None:
            lines.append(f'  label_path: "{self.labels}"')
        lines += [f"  feature_dim: {self.dimension}", f"  model_topk: {self.k}"]
        if self.neighbours is not None:
            lines.append(f'  knn_path: "{self.neighbours}"')
        Path(path).write_text("\n".join([*lines, "  is_norm_feat: True", ""]), encoding="utf-8")


def _sections(text: str) -> dict[str, Values]:
    """Mappings one level down, by the key they stand under; scalars at the top are passed over."""
    anchors: Values = {}
    sections: dict[str, Values] = {}
    current: Values = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, colon, value = stripped.partition(":")
        if not colon:
            raise DataError(f"line {number} is no 'key: value'")
        value = _scalar(value.strip(), anchors)
        if line[0] not in " \t":
            current = sections.setdefault(key, {}) if not value else {}
        else:
            current[key] = value
    return sections


def _scalar(value: str, anchors: Values) -> str:
    if value.startswith("&"):
        name, _, value = value[1:].partition(" ")
        anchors[name] = value.strip()
    elif value.startswith("*"):
        return anchors[value[1:]]
    if value[:1] in {'"', "'"}:
        return value[1 : value.index(value[0], 1)]
    return value.partition(" #")[0].strip()
