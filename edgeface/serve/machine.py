"""Routes about the service itself: health, what it is, thresholds, metrics."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from starlette.responses import PlainTextResponse, Response

from edgeface.calibrate import Calibration
from edgeface.gallery import Kind
from edgeface.serve.calls import Call, bad, shown
from edgeface.serve.metrics import metric, of_cameras, of_stages
from edgeface.serve.outcomes import promise_of
from edgeface.thresholds import CALIBRATION
from edgeface.types import timestamp

Answer = dict[str, Any]


def health(call: Call) -> Answer:
    """GET health: open to everybody, so it tells nothing but that the service answers."""
    call.service.store.newest()
    return {"status": "ok"}


def system(call: Call) -> Answer:
    """GET system."""
    service = call.service
    card = service.describer.embedder.card
    settings = service.settings
    return {
        "version": service.version,
        "started": timestamp(service.started),
        "now": timestamp(datetime.now(UTC)),
        "model": {"name": card.name, "digest": card.digest, "size": card.size},
        "people": {str(kind): service.gallery.count(kind) for kind in Kind},
        "learn": settings.learn,
        "crops": settings.crops,
        "expiry": asdict(settings.expiry),
        "cameras": len(service.cameras),
        "streams": service.feed.clients,
    }


def calibration(call: Call) -> Answer:
    """GET calibration: the thresholds of this moment, what they promise, and what came of it."""
    service = call.service
    limits = service.identifier.thresholds()
    text = service.gallery.note(CALIBRATION)
    own = None if text is None else Calibration.from_json(text)
    promised = promise_of(limits.known, own, service.describer.embedder.card)
    outcome = service.outcomes.judged(limits.known, promised)
    return {
        "known": asdict(limits.known),
        "stranger": asdict(limits.stranger),
        "people": service.gallery.count(Kind.KNOWN),
        "calibration": None if own is None else {
            "fpir": own.fpir, "threshold": own.value, "low": own.low, "high": own.high,
            "people": own.size, "trials": own.trials, "origin": own.origin,
            "measured": asdict(own.measured),
        },
        "promised": None if promised is None else asdict(promised),
        "outcome": {
            "wrong": outcome.wrong, "trials": outcome.trials,
            "seen": None if outcome.seen is None else asdict(outcome.seen),
            "warning": None if outcome.warning is None else str(outcome.warning),
        },
    }  # fmt: skip


def calibrated(call: Call) -> Answer:
    """POST calibration: {fpir}: how often a stranger may be given a name."""
    call.only("fpir")
    fpir = call.body.get("fpir")
    if isinstance(fpir, bool) or not isinstance(fpir, int | float) or not 0.0 < fpir < 1.0:
        raise bad(f"fpir is {shown(fpir)}: a rate between 0 and 1 is needed, such as 0.01", "fpir")
    call.service.identifier.calibrate(fpir=float(fpir))
    return calibration(call)


def metrics(call: Call) -> Response:
    """GET /metrics."""
    service = call.service
    people = [({"kind": str(k)}, float(service.gallery.count(k))) for k in Kind]
    limits = service.identifier.thresholds()
    values = [
        ({"kind": "known"}, limits.known.value),
        ({"kind": "stranger"}, limits.stranger.value),
    ]
    text = service.gallery.note(CALIBRATION)
    promised = [] if text is None else [(dict[str, str](), Calibration.from_json(text).fpir)]
    about = {"version": service.version, "model": service.describer.embedder.card.name}
    lines = [
        *of_cameras([camera.state() for camera in service.cameras]),
        *of_stages(service.cameras),
        *service.counts.rows(),
        *metric("gallery_people", "gauge", people),
        *metric("threshold", "gauge", values),
        *metric("fpir_promised", "gauge", promised),
        *metric("streams", "gauge", [({}, float(service.feed.clients))]),
        *metric("build_info", "gauge", [(about, 1.0)]),
    ]
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return PlainTextResponse("\n".join(lines) + "\n", media_type=kind)
