"""Events over MQTT, and the entities that Home Assistant makes of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeface.gallery import Kind
from edgeface.redaction import redact
from edgeface.sightings import Sightings
from edgeface.types import timestamp
from edgeface.wires import discovery
from edgeface.wires.broker import Broker, MqttOptions
from edgeface.wires.presence import Presence
from edgeface.wires.reader import Event, Reader, Undelivered

# Seconds before a connection was lost whose events are sent again: a broker that dies takes with it
# what it has acknowledged and not yet handed on. One of 76 was lost without.
OVERLAP = 2.0


class Mqtt:
    """Publishes the events of a log, at least once each and in order, and keeps who is where.

    Topics, below the prefix: `status` (`online`, or `offline` by last will), `events` (every event
    as JSON), per camera `camera/ID/status`, `present`, `attributes`, `stranger`, `event`, `image`,
    per known person `person/NUMBER/camera` and `attributes`. All but events are retained. A broker
    that is away is waited for; once it is back, it gets everything retained again, and so does Home
    Assistant when it says on `homeassistant/status` that it is `online`.
    """

    def __init__(
        self,
        store: Sightings,
        options: MqttOptions,
        *,
        cameras: Callable[[], Mapping[str, bool]] = dict,
        place: Path | None = None,
    ) -> None:
        """Put it together; `start` connects.

        Args:
            store: whose log is published, and whose gallery knows the people.
            options: where to, and what.
            cameras: the cameras there are, and whether each is up; asked about once a second. Those
                of events are known as well.
            place: the file in which it is kept how far it came, so that it goes on after a restart;
                without one it begins with what is new.

        Raises:
            DependencyError: the package paho-mqtt is missing.
            ArgumentError: the certificates cannot be read.
        """
        self._store, self._options, self._cameras = store, options, cameras
        self._status = f"{options.prefix}/status"
        own = options.discovery
        self._broker = Broker(
            options,
            will=self._status,
            subscribe=() if own is None else (f"{own}/status",),
            heard=self._on_message,
            ready=self._on_ready,
            ended=self._on_ended,
        )
        self._refresh = threading.Event()
        self._lost: float | None = None  # when the connection was lost, monotonic s
        self._up: dict[str, bool] = {}
        self._presence: dict[str, Presence] = {}
        self._names: dict[int, str] = {}
        self._stamp: object = None
        self._kept: dict[str, str | bytes] = {}  # what is retained, by topic
        self.reader = Reader(
            store, f"mqtt {redact(options.url)}", self._deliver,
            max_age=options.max_age, place=place,
            settle=self._settle, idle=self._idle,
        )  # fmt: skip

    def start(self) -> None:
        """Connect, and go on connecting until it works; this does not wait."""
        self._broker.start()
        self.reader.start()

    def close(self, timeout: float = 5.0) -> bool:
        """Say `offline` and end; whether it did within about `timeout` seconds."""
        ended = self.reader.close(timeout)
        self._broker.close("offline", min(timeout, 1.0))
        return ended

    def update(self, content: Mapping[str, Any]) -> None:
        """Publish what somebody else found out, at `tracked_object_update` below the prefix, in the
        form that Frigate gives its own. For any thread.

        Raises:
            Undelivered: the broker is away.
        """
        if not self._broker.is_up():
            raise Undelivered("the MQTT broker is away")
        body = json.dumps(content, ensure_ascii=False)
        self._broker.publish(f"{self._options.prefix}/tracked_object_update", body)

    # In the broker's thread

    def _on_ready(self) -> None:
        self._refresh.set()
        self.reader.wake()

    def _on_ended(self) -> None:
        self._lost = self._lost or time.monotonic()

    def _on_message(self, payload: bytes) -> None:
        if payload == b"online":  # Home Assistant has started
            self._on_ready()

    # In the reader's thread

    def _idle(self) -> None:
        if not self._broker.is_up():
            return
        if self._refresh.is_set():
            self._refresh.clear()
            self._announce()
        self._go_back()
        self._look_at_cameras()
        self._look_at_people()
        self._settle()

    def _go_back(self) -> bool:
        """After a lost connection, begin again a little before; whether there was one."""
        lost, self._lost = self._lost, None
        if lost is not None:
            self.reader.go_back(lost - OVERLAP)
        return lost is not None

    def _announce(self) -> None:
        """Everything that is retained, entities first."""
        self._send({t: p for t, p in self._kept.items() if t.endswith("/config")})
        self._send({self._status: "online"})
        self._send({t: p for t, p in self._kept.items() if not t.endswith("/config")})

    def _look_at_cameras(self) -> None:
        for name, up in self._cameras().items():
            if self._up.get(name) is not up:
                self._set_camera(name, up)

    def _set_camera(self, name: str, up: bool) -> None:
        if name not in self._up:
            self._presence[name] = Presence()
            self._discover(*discovery.camera(name, self._options.prefix))
            self._keep(self._who(name))
        self._keep({f"{discovery.topic(self._options.prefix, name)}/status": _online(up)})
        self._up[name] = up

    def _look_at_people(self) -> None:
        stamp = self._store.gallery.stamp()
        if not self._options.people or stamp == self._stamp:
            return
        known = [p for p in self._store.gallery.people() if p.kind is Kind.KNOWN]
        names = {person.id: person.name for person in known}
        gone = frozenset(self._names) - frozenset(names)
        if names != self._names:
            own, payload = discovery.people(names, self._options.prefix, gone)
            self._discover(own, payload)
            if gone:  # their retained messages, too
                places = [f"{self._options.prefix}/person/{number}" for number in gone]
                self._keep({f"{p}/{t}": "" for p in places for t in ("camera", "attributes")})
                self._discover(*discovery.people(names, self._options.prefix))
            for number in names.keys() - self._names.keys():
                for row in self._store.rows(person=number, limit=1).rows:
                    self._keep(self._where(number, row.camera, row.last, row.similarity))
            self._names = names
            for camera in self._presence:
                self._keep(self._who(camera))
        self._stamp = stamp

    def _deliver(self, event: Event) -> None:
        if not self._broker.is_up():
            raise Undelivered("the broker is away")
        if self._go_back():
            raise Undelivered("earlier events come first")
        if self._refresh.is_set():
            self._refresh.clear()
            self._announce()
        body = json.dumps(event, ensure_ascii=False)
        messages: dict[str, str | bytes] = {f"{self._options.prefix}/events": body}
        camera = event.get("camera")
        if camera is None:
            self._send(messages, retain=False)
            return
        if camera not in self._up:
            self._set_camera(camera, True)
        place = discovery.topic(self._options.prefix, camera)
        told = {"event_type": event["event"]} | event
        messages[f"{place}/event"] = json.dumps(told, ensure_ascii=False)
        if event["event"] in discovery.LINKS:
            self._set_camera(camera, event["event"] == "camera_back")
        else:
            self._presence[camera].take(event)
            self._keep(self._who(camera) | self._face(event, place))
        self._send(messages, retain=False)

    def _who(self, camera: str) -> dict[str, str | bytes]:
        place, here = discovery.topic(self._options.prefix, camera), self._presence[camera]
        return {
            f"{place}/present": here.state(self._names),
            f"{place}/attributes": json.dumps(here.attributes(self._names), ensure_ascii=False),
            f"{place}/stranger": "ON" if here.strangers else "OFF",
        }

    def _face(self, event: Event, place: str) -> dict[str, str | bytes]:
        found: dict[str, str | bytes] = {}
        sighting = event.get("sighting")
        crop = None if sighting is None else self._store.crop(sighting)
        if crop is not None:
            found[f"{place}/image"] = crop
        if self._options.people and event["kind"] == "known":
            person, at = event["person_id"], event["ts"]
            found |= self._where(person, event["camera"], at, event["similarity"])
        return found

    def _where(
        self, person: int, camera: str, at: Any, similarity: float | None
    ) -> dict[str, str | bytes]:
        place = f"{self._options.prefix}/person/{person}"
        seen = at if isinstance(at, str) else timestamp(at)
        attributes = {"last_seen": seen, "similarity": similarity}
        return {f"{place}/camera": camera, f"{place}/attributes": json.dumps(attributes)}

    def _discover(self, own: str, payload: discovery.Payload) -> None:
        if self._options.discovery is not None:
            topic = f"{self._options.discovery}/device/{own}/config"
            self._keep({topic: json.dumps(payload, ensure_ascii=False)})

    def _keep(self, messages: Mapping[str, str | bytes]) -> None:
        """Publish what changed of the messages that are retained."""
        changed = {t: p for t, p in messages.items() if self._kept.get(t) != p}
        self._kept |= changed
        self._kept = {t: p for t, p in self._kept.items() if p != ""}
        self._send(changed)

    def _send(self, messages: Mapping[str, str | bytes], *, retain: bool = True) -> None:
        """Publish; `_settle` waits until the broker has taken it."""
        for place, payload in messages.items():
            self._broker.publish(place, payload, retain=retain)

    def _settle(self) -> None:
        """Wait until the broker has taken what was published."""
        try:
            self._broker.settle()
        except Undelivered:
            self._refresh.set()  # what was to be retained may not have arrived
            raise


def _online(up: bool) -> str:
    return "online" if up else "offline"
