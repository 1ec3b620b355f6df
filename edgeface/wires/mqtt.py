"""Events over MQTT, and the entities that Home Assistant makes of them."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from edgeface.errors import ArgumentError, DependencyError
from edgeface.gallery import Kind
from edgeface.redaction import redact
from edgeface.sightings import Sightings
from edgeface.types import timestamp
from edgeface.wires import discovery
from edgeface.wires.presence import Presence
from edgeface.wires.reader import Event, Reader, Undelivered

if TYPE_CHECKING:
    import paho.mqtt.client as paho

log = logging.getLogger(__name__)

DAY = 86_400.0
ACKNOWLEDGED = 10.0  # seconds for the broker to take a message
BACK = (1, 30)  # seconds until a lost connection is tried again, doubled from one to the other
# Messages on their way at once: brokers answer many together, but each alone after 40 ms (Nagle).
IN_FLIGHT = 200
# Seconds before a connection was lost whose events are sent again: a broker that dies takes with it
# what it has acknowledged and not yet handed on. One of 76 was lost without.
OVERLAP = 2.0
CONNECT = 5.0  # seconds for a connection
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """The broker, `mqtt://[USER:PASSWORD@]HOST[:PORT]` or `mqtts://…` for TLS, and what is told."""

    url: str
    password: str | None = None  # in place of the one in the address
    ca: Path | None = None  # certificates that sign the broker's; None: those of the system
    prefix: str = "edgeface"  # of all topics; one per service
    discovery: str | None = "homeassistant"  # Home Assistant's prefix; None: no discovery
    people: bool = True  # a sensor per known person
    max_age: float = DAY  # seconds until an event is given up; more: longer outages are bridged

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ArgumentError(f"{redact(self.url)!r} is no broker: give mqtt://HOST or mqtts://…")
        for prefix in (self.prefix, self.discovery):
            if prefix is not None and (not prefix or set(prefix) & set("+#\0 ") or "//" in prefix):
                raise ArgumentError(f"{prefix!r} begins no topic: leave out +, # and spaces")
        if not 0 < self.max_age < float("inf"):
            raise ArgumentError("max_age is in finite seconds above 0")


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
        self._client = self._made(options)
        self._connected, self._refresh = threading.Event(), threading.Event()
        self._lost: float | None = None  # when the connection was lost, monotonic s
        self._up: dict[str, bool] = {}
        self._presence: dict[str, Presence] = {}
        self._names: dict[int, str] = {}
        self._stamp: object = None
        self._pending: list[paho.MQTTMessageInfo] = []  # what the broker has not taken yet
        self._kept: dict[str, str | bytes] = {}  # what is retained, by topic
        self.reader = Reader(
            store, f"mqtt {redact(options.url)}", self._deliver,
            max_age=options.max_age, place=place,
            settle=self._settle, idle=self._idle,
        )  # fmt: skip

    def _made(self, options: MqttOptions) -> paho.Client:
        try:
            import paho.mqtt.client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise DependencyError(
                "MQTT needs paho-mqtt; run: pip install 'edgeface[mqtt]'"
            ) from error
        parts = urlsplit(options.url)
        client = paho.Client(CallbackAPIVersion.VERSION2)
        if parts.username is not None:
            password = options.password or unquote(parts.password or "")
            client.username_pw_set(unquote(parts.username), password)
        if parts.scheme == "mqtts":
            try:
                client.tls_set_context(ssl.create_default_context(cafile=options.ca))
            except OSError as error:
                raise ArgumentError(f"{options.ca} holds no certificates: {error}") from error
        client.will_set(self._status, "offline", qos=1, retain=True)
        client.reconnect_delay_set(*BACK)
        client.connect_timeout = CONNECT
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message = self._on_message
        client.max_inflight_messages_set(IN_FLIGHT)
        return client

    def start(self) -> None:
        """Connect, and go on connecting until it works; this does not wait."""
        parts = urlsplit(self._options.url)
        self._client.connect_async(parts.hostname or "", parts.port or PORTS[parts.scheme])
        self._client.loop_start()
        self.reader.start()

    def close(self, timeout: float = 5.0) -> bool:
        """Say `offline` and end; whether it did within about `timeout` seconds."""
        ended = self.reader.close(timeout)
        if self._connected.is_set():
            try:
                self._pending.clear()
                self._send({self._status: "offline"})
                self._settle(min(timeout, 1.0))
            except Undelivered as error:
                log.warning("mqtt: %s", error)  # the last will says it
        self._client.disconnect()
        self._client.loop_stop()
        return ended

    def update(self, content: Mapping[str, Any]) -> None:
        """Publish what somebody else found out, at `tracked_object_update` below the prefix, in the
        form that Frigate gives its own. For any thread.

        Raises:
            Undelivered: the broker is away.
        """
        if not self._connected.is_set():
            raise Undelivered("the MQTT broker is away")
        body = json.dumps(content, ensure_ascii=False)
        self._client.publish(f"{self._options.prefix}/tracked_object_update", body, qos=1)

    # In the client's thread

    def _on_connect(self, client: paho.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            log.warning("the MQTT broker refuses: %s", reason)
            return
        if self._options.discovery is not None:
            client.subscribe(f"{self._options.discovery}/status", qos=1)
        self._refresh.set()
        self._connected.set()
        self.reader.wake()

    def _on_disconnect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        self._connected.clear()
        self._lost = self._lost or time.monotonic()
        if not self.reader.closing():
            log.warning("the MQTT broker is lost: %s", reason)

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        if message.payload == b"online":  # Home Assistant has started
            self._refresh.set()
            self.reader.wake()

    # In the reader's thread

    def _idle(self) -> None:
        if not self._connected.is_set():
            return
        if self._refresh.is_set():
            self._refresh.clear()
            self._announce()
        if self._lost is not None:
            self.reader.go_back(self._lost - OVERLAP)
            self._lost = None
        self._look_at_cameras()
        self._look_at_people()
        self._settle()

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
        if not self._connected.is_set():
            raise Undelivered("the broker is away")
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
            self._pending.append(self._client.publish(place, payload, qos=1, retain=retain))

    def _settle(self, wait: float = ACKNOWLEDGED) -> None:
        """Wait until the broker has taken what was published."""
        pending, self._pending = self._pending, []
        end = time.monotonic() + wait
        for info in pending:
            while not info.is_published():
                left = end - time.monotonic()
                if not self._connected.is_set() or left <= 0:
                    self._refresh.set()  # what was to be retained may not have arrived
                    raise Undelivered("the broker went away under way")
                info.wait_for_publish(min(left, 0.1))


def _online(up: bool) -> str:
    return "online" if up else "offline"
