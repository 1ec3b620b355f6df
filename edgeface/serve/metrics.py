"""Counts for Prometheus. None is by person: who was where is nobody's business there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from edgeface.cameras import Camera, CameraState
from edgeface.sightings import Sightings
from edgeface.stages import BOUNDS

Rows = list[tuple[dict[str, str], float]]


class Counts:
    """Counts the events of a log."""

    def __init__(self, store: Sightings) -> None:
        self._lock = threading.Lock()
        self._events: Counter[tuple[str, str, str]] = Counter()
        self._faces: Counter[tuple[str, str]] = Counter()
        store.listeners.append(self._on_event)

    def _on_event(self, event: dict[str, Any]) -> None:
        camera, kind = event.get("camera"), event.get("kind") or "none"
        if camera:
            with self._lock:
                self._events[camera, event["event"], kind] += 1
                if event["event"] == "lost":
                    self._faces[camera, event["status"]] += 1

    def rows(self) -> list[str]:
        """Lines about events and about faces that were there, by what was decided in the end."""
        with self._lock:
            faces = sorted(self._faces.items())
            events = sorted(self._events.items())
        return [
            *metric("faces_total", "counter", [
                ({"camera": c, "status": s}, float(n)) for (c, s), n in faces
            ]),
            *metric("events_total", "counter", [
                ({"camera": c, "event": e, "kind": k}, float(n)) for (c, e, k), n in events
            ]),
        ]  # fmt: skip


def of_cameras(states: list[CameraState]) -> list[str]:
    """Lines about each camera."""

    def each(name: str, kind: str, field: str) -> list[str]:
        rows = [({"camera": s.name}, float(getattr(s, field))) for s in states]
        return metric(name, kind, rows)

    up: Rows = [({"camera": s.name}, float(s.state == "running")) for s in states]
    return [
        *metric("camera_up", "gauge", up),
        *each("frames_total", "counter", "frames"),
        *each("frames_dropped_total", "counter", "dropped"),
        *each("reconnects_total", "counter", "reconnects"),
        *each("frames_per_second", "gauge", "fps"),
    ]


def of_stages(cameras: Iterable[Camera]) -> list[str]:
    """Lines about how long detection, embedding and search took on each camera: a histogram."""
    name, lines = "stage_seconds", ["# TYPE edgeface_stage_seconds histogram"]
    for camera in cameras:
        for time in camera.times():
            labels = {"camera": camera.spec.name, "stage": str(time.stage)}
            bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
            for bound, count in zip(bounds, accumulate(time.counts), strict=True):
                lines.append(_line(f"{name}_bucket", labels | {"le": bound}, count))
            lines.append(_line(f"{name}_sum", labels, time.total))
            lines.append(_line(f"{name}_count", labels, sum(time.counts)))
    return lines


def metric(name: str, kind: str, rows: Rows) -> list[str]:
    """The lines of one metric in the text format of Prometheus."""
    lines = [f"# TYPE edgeface_{name} {kind}"]
    return lines + [_line(name, labels, value) for labels, value in rows]


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    shown = f"{{{inside}}}" if inside else ""
    return f"edgeface_{name}{shown} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
