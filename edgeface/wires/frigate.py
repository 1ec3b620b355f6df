"""Frigate: its cameras' streams as sources, and names written back onto what it follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from edgeface.errors import ArgumentError
from edgeface.redaction import redact
from edgeface.sightings import Sightings
from edgeface.wires.confidence import confidence
from edgeface.wires.fitting import Sight, fits, sight_of
from edgeface.wires.frigate_api import FrigateApi, NotTaken
from edgeface.wires.reader import Event, NotYet, Reader, age

log = logging.getLogger(__name__)

DAY = 86_400.0
SCHEME = "frigate://"
RTSP_PORT = 8554  # of go2rtc in Frigate
PATIENCE = 30.0  # seconds until Frigate has written down whom it follows
LABEL = 100  # characters of a sub label (Frigate's EventsSubLabelBody)
Track = tuple[str, int]  # run and number
FACES = {"seen", "identified", "changed", "lost"}
SIGHTS = 8  # of a face by which its body is found, the newest
KEPT = 1000  # labels written, so that none is written twice


@dataclass(frozen=True, slots=True)
class FrigateOptions:
    """Where Frigate is, `http://HOST:5000`, and what is written there."""

    url: str
    rtsp: str | None = None  # of its streams; None: rtsp://HOST:8554. May name a USER@
    password: str | None = field(default=None, repr=False)  # of that user
    labels: bool = True  # names are written onto Frigate's events as `sub_label`
    kinds: tuple[str, ...] = ("known",)  # whose names, see docs/events.md
    # Frigate's name by ours, of cameras whose source is not frigate://NAME.
    cameras: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0  # seconds for an answer
    max_age: float = DAY  # seconds until an event is given up

    def __post_init__(self) -> None:
        for url, scheme in ((self.url, "http"), (self.rtsp or "rtsp://localhost", "rtsp")):
            try:
                parts = urlsplit(url)
                good = parts.scheme in {scheme, f"{scheme}s"} and bool(parts.hostname)
                good = good and parts.port != 0
            except ValueError:
                good = False
            if not good:
                raise ArgumentError(f"{redact(url)!r} is no address of Frigate: give {scheme}://…")
        if urlsplit(self.url).username is not None:
            raise ArgumentError(f"{redact(self.url)} holds a password: Frigate's port 5000 needs "
                                "none")  # fmt: skip
        if not (0 < self.timeout < float("inf") and 0 < self.max_age < float("inf")):
            raise ArgumentError("timeout and max_age are finite seconds above 0")

    def stream(self, name: str) -> str:
        """The address of the stream that go2rtc has under a name."""
        host = urlsplit(self.url).hostname or ""
        host = f"[{host}]" if ":" in host else host
        parts = urlsplit(self.rtsp or f"rtsp://{host}:{RTSP_PORT}")
        place = parts.netloc.rpartition("@")[2]
        if parts.username is not None:
            secret = self.password or unquote(parts.password or "")
            user = quote(unquote(parts.username), safe="")
            place = f"{user}:{quote(secret, safe='')}@{place}"
        return f"{parts.scheme}://{place}{parts.path.rstrip('/')}/{quote(name, safe='')}"

    def camera(self, name: str, source: str) -> str | None:
        """What Frigate calls the camera that is called `name` here; None: it has none."""
        given = self.cameras.get(name)
        return given or (source.removeprefix(SCHEME) if source.startswith(SCHEME) else None)


def address(options: FrigateOptions | None, source: str) -> str:
    """What to open for a camera's source: `frigate://NAME` is a stream of Frigate's.

    Raises:
        ArgumentError: there is no Frigate.
    """
    if not source.startswith(SCHEME):
        return source
    if options is None:
        raise ArgumentError(f"{source} needs the address of Frigate: put url under [frigate] in "
                            "the settings")  # fmt: skip
    return options.stream(source.removeprefix(SCHEME))


@dataclass(slots=True, eq=False)
class _Face:
    """A face that is there: its newest event, and where it was, by the ids of events."""

    event: Event
    sights: dict[str, Sight] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Go on with a later event."""
        self.event = event
        self.sights[event["id"]] = sight_of(event, _time(event))
        if len(self.sights) > SIGHTS:
            del self.sights[next(iter(self.sights))]


class Frigate:
    """Writes the name of who is identified onto the person that Frigate follows there, found by
    camera, time and box, as its `sub_label`, and takes it back when the name turns out wrong.

    Faces that are before one camera at a time are fitted together, so that two people get their own
    names. Where two bodies fit equally well, nothing is written: later events of the track may tell
    them apart. Each label written is told to `tell` in the form of Frigate's own updates.
    """

    def __init__(
        self,
        store: Sightings,
        options: FrigateOptions,
        *,
        camera: Callable[[str], str | None],
        tell: Callable[[dict[str, Any]], None] | None = None,
        place: Path | None = None,
    ) -> None:
        """Put it together; `start` begins to write.

        Args:
            store: whose log is read.
            options: where to, and what.
            camera: what Frigate calls one of our cameras; None: it does not have it.
            tell: takes `{"type": "face", "id", "name", "score", "camera", "timestamp"}`.
            place: the file in which it is kept how far it came, so that it goes on after a restart;
                without one it begins with what is new.
        """
        self._options, self.camera = options, camera
        self._tell = tell or (lambda update: None)
        self._api = FrigateApi(options.url, options.timeout)
        self._live: dict[str, dict[Track, _Face]] = {}  # by camera and track
        self._labelled: dict[Track, str] = {}  # Frigate's id, by track
        self._written: dict[str, str] = {}  # labels by Frigate's id
        self._done: set[str] = set()  # events of this batch
        self._gone: set[Track] = set()  # tracks that ended in this batch
        self._open: list[str] = []  # those whose body is not there yet
        self.reader = Reader(
            store, f"frigate {redact(options.url)}", self._deliver,
            max_age=options.max_age, place=place, settle=self._settle,
        )  # fmt: skip

    def start(self) -> None:
        """Begin to write."""
        self.reader.start()

    def close(self, timeout: float = 5.0) -> bool:
        """End; whether it did within `timeout` seconds."""
        return self.reader.close(timeout)

    # In the reader's thread

    def _deliver(self, event: Event) -> None:
        if event["event"] not in FACES or event["id"] in self._done:
            return
        camera = self.camera(event["camera"])
        if camera is not None:
            self._take(event, camera, (event["run"], event["track"]))
        self._done.add(event["id"])

    def _take(self, event: Event, camera: str, track: Track) -> None:
        live = self._live.setdefault(event["camera"], {})
        if track in self._gone or (track in live and live[track].event["id"] > event["id"]):
            return  # it waited, and a later event of the track took its place
        for other in [t for t in live if t[0] != event["run"]]:
            del live[other]  # of a run that was killed before it could say so
        live.setdefault(track, _Face(event)).take(event)
        if event["kind"] in self._options.kinds:
            self._name(event, camera, track, live)
        elif track in self._labelled:
            self._write(self._labelled[track], "", None)
            del self._labelled[track]
        if event["event"] == "lost" and event["id"] not in self._open:
            live.pop(track, None)
            self._labelled.pop(track, None)
            self._gone.add(track)

    def _settle(self) -> None:
        waiting, self._open = self._open, []  # begun anew, as those are delivered again
        if waiting:
            self._done -= set(waiting)
            raise NotYet(f"{len(waiting)} faces wait for their events in Frigate")
        self._done.clear()
        self._gone.clear()

    def _name(self, event: Event, camera: str, own: Track, live: dict[Track, _Face]) -> None:
        """Write the names of all who are there, as one more sight may tell the others apart."""
        tracks = list(live)
        bodies = self._api.bodies(camera, _time(event))
        found = fits([list(live[track].sights.values()) for track in tracks], bodies)
        for track, index in zip(tracks, found, strict=True):
            told = live[track].event
            if told["kind"] not in self._options.kinds:
                continue
            if index is not None:
                self._label(track, told, bodies[index].id, camera)
            elif track == own and own not in self._labelled:
                if age(event) < PATIENCE:
                    self._open.append(event["id"])
                else:
                    log.info("frigate: nobody on %s fits %s", camera, event["name"])

    def _label(self, track: Track, event: Event, body: str, camera: str) -> None:
        name = event["name"][:LABEL]
        if self._labelled.get(track) == body and self._written.get(body) == name:
            return
        had = self._labelled.get(track)
        if had not in (None, body) and self._written.get(had) == name:
            self._write(had, "", None)
        score = confidence(event["similarity"], event["threshold"], event["status"])
        if not self._write(body, name, score):
            return
        self._tell({
            "type": "face", "id": body, "name": name, "score": score, "camera": camera,
            "timestamp": _time(event),
        })  # fmt: skip
        self._labelled[track] = body

    def _write(self, body: str, name: str, score: float | None) -> bool:
        """Set or, with an empty name, take away a label; whether Frigate took it."""
        try:
            self._api.label(body, name, score)
        except NotTaken as error:
            log.error("frigate refuses the label of %s: %s", body, error)
            return False
        self._written.pop(body, None)
        self._written[body] = name
        if len(self._written) > KEPT:
            del self._written[next(iter(self._written))]
        return True


def _time(event: Event) -> float:
    return datetime.fromisoformat(event["ts"]).timestamp()
