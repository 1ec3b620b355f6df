"""What /metrics tells, and the dashboard that is drawn from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from serving import filed, serving
from test_webhook import until

from edgeface.cameras import CameraSpec
from edgeface.describe import Describer
from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.stages import BOUNDS, Stage, StageTimes

DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
# What PromQL has besides metrics and labels.
WORDS = {"rate", "increase", "sum", "by", "histogram_quantile", "label_values"}
CAMERA = 'door "\\1"'

Metrics = dict[str, list[tuple[dict[str, str], float]]]


def parsed(text: str) -> tuple[dict[str, str], Metrics]:
    """The types and the samples of the text format of Prometheus, version 0.0.4."""
    types: dict[str, str] = {}
    samples: Metrics = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types
            types[name] = kind
            continue
        found = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)', line)
        assert found is not None, line
        labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
        name = found[1]
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in types or types.get(family) == "histogram", name
        samples.setdefault(name, []).append((labels, float(found[3])))
    return types, samples


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Iterator[tuple[Any, ...]]:
    """Types and samples after the clip was watched, and what the camera counted."""
    folder = tmp_path_factory.mktemp("metrics")
    with filed(folder, Describer(Detector.load(), Embedder.load())) as service:
        service.identifier.enroll("Eileen", [sample / "eileen.jpg"])
        camera = service.add_camera(CameraSpec(CAMERA, str(sample / "clip.mp4"), every=3))
        until(lambda: camera.state().state == "ended")
        with serving(service) as client:
            text = client.get("/metrics").text
        yield (*parsed(text), camera.state(), text)


def test_stages_are_counted_for_every_camera(told) -> None:
    types, samples, state, _ = told
    assert types["edgeface_stage_seconds"] == "histogram"
    counts = {row["stage"]: n for row, n in samples["edgeface_stage_seconds_count"]}
    sums = {row["stage"]: n for row, n in samples["edgeface_stage_seconds_sum"]}
    assert set(counts) == set(sums) == {"detection", "embedding", "search"}
    assert counts["detection"] == state.frames
    assert counts["search"] > 0 and 0 < counts["embedding"] <= 2 * state.frames
    assert all(0 < total / counts[stage] < 1.0 for stage, total in sums.items())
    for stage, count in counts.items():
        rows = [
            (row["le"], n)
            for row, n in samples["edgeface_stage_seconds_bucket"]
            if row["stage"] == stage
        ]
        assert [bound for bound, _ in rows] == [*(f"{b:g}" for b in BOUNDS), "+Inf"]
        assert [n for _, n in rows] == sorted(n for _, n in rows)
        assert rows[-1][1] == count
    escaped = CAMERA.replace("\\", "\\\\").replace('"', '\\"')
    assert {row["camera"] for row, _ in samples["edgeface_stage_seconds_count"]} == {escaped}


def test_nobody_is_named(told) -> None:
    _, samples, _, text = told
    assert "Eileen" not in text
    assert not {"name", "person", "person_id"} & {
        key for rows in samples.values() for labels, _ in rows for key in labels
    }


def test_the_dashboard_uses_only_what_is_told(told) -> None:
    types, samples, _, _ = told
    names = set(types) | set(samples)
    used: set[str] = set()
    for expression in expressions():
        assert expression.count("(") == expression.count(")")
        found = set(re.findall(r"edgeface_[a-z_]+", expression))
        assert found and found <= names, found - names
        used |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}
        labels = {k for name in found for row, _ in samples.get(name, []) for k in row}
        plain = re.sub(r'"[^"]*"|\[[^]]*\]|edgeface_[a-z_]+|[\d.]+', " ", expression)
        words = set(re.findall(r"[a-z_]+", plain)) - WORDS
        assert words <= labels, (expression, words - labels)
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            (name, *_) = re.findall(r"edgeface_[a-z_]+", target["expr"])
            has = {k for row, _ in samples.get(name, []) for k in row}
            assert shown <= has, (panel["title"], shown - has)
    assert used == set(types), "a metric that nobody sees"


def test_the_document_names_every_metric(told) -> None:
    types, _, _, _ = told
    text = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    section = text.partition("## Prometheus")[2]
    short = set(re.findall(r"`(?:edgeface)?_([a-z_]+)[`{]", section))
    assert {f"edgeface_{name}" for name in short} == set(types)


def expressions() -> list[str]:
    """The PromQL of the dashboard."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = DASHBOARD["templating"]["list"]
    return asked + [v["query"]["query"] for v in variables if v["type"] == "query"]


def test_the_panels_lie_side_by_side() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for a, b in combinations((panel["gridPos"] for panel in panels), 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert {v["name"] for v in DASHBOARD["templating"]["list"]} == {"datasource", "camera"}


def test_times_fall_into_their_buckets() -> None:
    times = StageTimes()
    for seconds in (0.0, 0.001, 0.0011, 0.3, 7.0):
        times.note(Stage.SEARCH, seconds)
    with pytest.raises(KeyError), times(Stage.EMBEDDING):
        raise KeyError
    with times(Stage.DETECTION):
        pass
    found = {time.stage: time for time in times.read()}
    assert found[Stage.SEARCH].counts == (2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1)
    assert found[Stage.SEARCH].total == pytest.approx(7.3021)
    assert sum(found[Stage.EMBEDDING].counts) == 0 and sum(found[Stage.DETECTION].counts) == 1
