"""MQTT against a real mosquitto: nothing is lost while the broker is killed and started again, and
what Home Assistant is told is what it documents.

`EDGEFACE_BROKER_ROUNDS` sets how often the broker is killed.
"""

# ruff: noqa: F811 - the fixtures of another file

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from test_sightings import event, gallery, store, unit  # noqa: F401

from edgeface.errors import ArgumentError
from edgeface.sightings import Sightings
from edgeface.types import timestamp
from edgeface.wires import Mqtt, MqttOptions, discovery, reader
from edgeface.wires import broker as brokers

paho = pytest.importorskip("paho.mqtt.client")
jsonschema = pytest.importorskip("jsonschema")

ROUNDS = int(os.environ.get("EDGEFACE_BROKER_ROUNDS", "2"))
MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
BOUND = 30.0

# What the pages https://www.home-assistant.io/integrations/mqtt/ (device discovery payload),
# sensor.mqtt, event.mqtt, binary_sensor.mqtt and image.mqtt document, as far as it is used here and
# nothing beyond it: an option that is not there would be a mistake of ours. A component with `p`
# alone takes an entity away.
TOPIC = {"type": "string", "pattern": r"^[^+#\u0000]{1,200}$"}
AVAILABILITY = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["topic"],
        "additionalProperties": False,
        "properties": {"topic": TOPIC},
    },
}
SHARED = {
    "p": {},
    "name": {"type": "string", "minLength": 1},
    "unique_id": {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$"},
    "availability": AVAILABILITY,
    "availability_mode": {"enum": ["all", "any", "latest"]},
    "icon": {"type": "string", "pattern": "^mdi:"},
    "json_attributes_topic": TOPIC,
}


def entity(required: list[str], **fields: object) -> dict[str, object]:
    return {
        "type": "object",
        "required": ["p", "unique_id", *required],
        "additionalProperties": False,
        "properties": SHARED | fields,
    }


ENTITIES = {
    "sensor": entity(["state_topic"], state_topic=TOPIC),
    "event": entity(
        ["state_topic", "event_types"],
        state_topic=TOPIC,
        event_types={"type": "array", "items": {"type": "string"}, "minItems": 1},
    ),
    "binary_sensor": entity(
        ["state_topic"],
        state_topic=TOPIC,
        payload_on={"type": "string"},
        payload_off={"type": "string"},
        device_class={"const": "occupancy"},
    ),
    "image": entity(["image_topic"], image_topic=TOPIC, content_type={"const": "image/jpeg"}),
}
DEVICE = {
    "type": "object",
    "required": ["dev", "o", "cmps"],
    "additionalProperties": False,
    "properties": {
        "qos": {"enum": [0, 1, 2]},
        "dev": {
            "type": "object",
            "required": ["ids"],
            "additionalProperties": False,
            "properties": {
                "ids": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "name": {"type": "string", "minLength": 1},
                "mf": {"type": "string"},
                "mdl": {"type": "string"},
            },
        },
        "o": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {"name": {"type": "string"}, "sw": {"type": "string"}},
        },
        "cmps": {
            "type": "object",
            "propertyNames": {"pattern": "^[a-zA-Z0-9_-]+$"},
            "additionalProperties": {
                "type": "object",
                "required": ["p"],
                "properties": {"p": {"enum": list(ENTITIES)}},
                "if": {"maxProperties": 1},
                "else": {
                    "allOf": [
                        {"if": {"properties": {"p": {"const": kind}}}, "then": schema}
                        for kind, schema in ENTITIES.items()
                    ]
                },
            },
        },
    },
}
NAMES = [
    "Alice", "a/b", "+", "#", "front door", 'he said "no"', "Käthe", "李小龍", "👩‍👧", "مريم",
    "<b>x</b>", "x" * 200, "{{ states }}", "\\", "null",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PAUSE", 0.05)
    monkeypatch.setattr(reader, "PAUSE_MAX", 0.2)
    monkeypatch.setattr(reader, "LOOK", 0.1)
    monkeypatch.setattr(brokers, "BACK", (0.5, 0.5))


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class Broker:
    """A mosquitto of its own. It keeps nothing when it is killed."""

    def __init__(self, folder: Path, tls: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"mqtt{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._settings = folder / "mosquitto.conf"
        # What it has acknowledged goes to the listener at once, so that it cannot die with it.
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"max_inflight_messages 0\nmax_queued_messages 0\nset_tcp_nodelay true\n{tls}"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", self._settings],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def listens() -> bool:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                return False
            return True

        until(listens)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def require_mosquitto() -> None:
    if not Path(MOSQUITTO).exists():
        reason = "mosquitto is not installed"
        if os.environ.get("EDGEFACE_REQUIRE_SHARED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    require_mosquitto()
    made = Broker(tmp_path)
    made.start()
    yield made
    made.kill()


class Subscriber:
    """Who takes everything."""

    def __init__(self, broker: Broker, name: str = "listener") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name)
        self.ready = threading.Event()
        self._client.on_connect = lambda c, *_: c.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_message = lambda _, __, m: self.messages.append(
            (m.topic, m.payload, m.retain)
        )
        self._client.on_disconnect = lambda *_: self.ready.clear()
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self.ready.wait(BOUND)

    def last(self, topic: str) -> str | None:
        found = [p for t, p, _ in list(self.messages) if t == topic]
        return found[-1].decode(errors="replace") if found else None

    def ids(self) -> list[str]:
        return [json.loads(p)["id"] for t, p, _ in list(self.messages) if t == "edgeface/events"]

    def publish(self, topic: str, payload: str) -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(BOUND)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Subscriber]:
    made = Subscriber(broker)
    yield made
    made.close()


@pytest.fixture
def wire(store: Sightings, broker: Broker) -> Iterator[Callable[..., Mqtt]]:
    made: list[Mqtt] = []

    def make(place: Path | None = None, cameras=dict, **options: object) -> Mqtt:
        new = Mqtt(store, MqttOptions(broker.url, **options), cameras=cameras, place=place)
        new.start()
        made.append(new)
        return new

    yield make
    for one in made:
        assert one.close(BOUND)


def now() -> datetime:
    return datetime.now(UTC)


DOOR = "edgeface/camera/" + discovery.slug("door")


def test_entities_states_and_events_of_a_visit(store, gallery, listener, wire, broker) -> None:
    alice = gallery.enroll("Alice", unit(1)[None])
    cameras = {"door": True, "garden": False}
    wire(cameras=lambda: dict(cameras))
    until(lambda: listener.last("edgeface/status") == "online")
    until(lambda: listener.last(f"{DOOR}/present") == "nobody")
    garden = "edgeface/camera/" + discovery.slug("garden")
    until(lambda: listener.last(f"{garden}/status") == "offline")
    assert listener.last(f"{DOOR}/status") == "online"
    row, _ = store.record(event(1, 1, at=now()))  # nobody that we know
    until(lambda: listener.last(f"{DOOR}/stranger") == "ON")
    assert listener.last(f"{DOOR}/present") == "stranger"
    store.keep_crop(row, b"\xff\xd8jpeg", 0.5, now())
    store.record(event(2, 1, "identified", alice, at=now()))
    until(lambda: listener.last(f"{DOOR}/present") == "Alice")
    until(lambda: listener.last(f"{DOOR}/stranger") == "OFF")
    until(lambda: (f"{DOOR}/image", b"\xff\xd8jpeg", False) in listener.messages)
    until(lambda: listener.last(f"edgeface/person/{alice.id}/attributes"))
    assert listener.last(f"edgeface/person/{alice.id}/camera") == "door"
    assert json.loads(listener.last(f"{DOOR}/attributes")) == {"known": ["Alice"], "strangers": 0}
    seen = json.loads(listener.last(f"edgeface/person/{alice.id}/attributes"))
    assert set(seen) == {"last_seen", "similarity"}
    gallery.rename("Alice", "Alíce")
    until(lambda: listener.last(f"{DOOR}/present") == "Alíce")
    store.record(event(3, 1, "lost", alice, at=now()))
    until(lambda: listener.last(f"{DOOR}/present") == "nobody")
    until(lambda: len(listener.ids()) == 3)
    until(lambda: listener.last(f"{DOOR}/event") and '"lost"' in listener.last(f"{DOOR}/event"))
    told = [json.loads(p) for t, p, _ in listener.messages if t == f"{DOOR}/event"]
    assert [t["event_type"] for t in told] == ["seen", "identified", "lost"]
    assert listener.ids() == [e["id"] for e in store.events()]
    cameras["door"] = False
    store.log({"version": 1, "id": "z-1", "event": "camera_lost", "camera": "door",
               "ts": timestamp(now()), "reason": "ended"})  # fmt: skip
    until(lambda: listener.last(f"{DOOR}/status") == "offline")
    late = Subscriber(broker, "late")  # states and entities are kept for who comes later
    until(lambda: late.last(f"{DOOR}/image"))
    until(lambda: late.last("homeassistant/device/edgeface_people/config"))
    assert all(retained for _, _, retained in late.messages) and late.ids() == []
    late.close()


def test_tracks_of_a_run_that_was_killed_are_gone(store, gallery, listener, wire) -> None:
    alice = gallery.enroll("Alice", unit(1)[None])
    wire()
    store.record(event(1, 1, "seen", alice, at=now(), run="r1"))
    until(lambda: listener.last(f"{DOOR}/present") == "Alice")
    store.record(event(1, 1, "seen", at=now(), run="r2"))
    until(lambda: listener.last(f"{DOOR}/present") == "stranger")


def test_discovery_is_what_home_assistant_documents(store, gallery, listener, wire) -> None:
    for number, name in enumerate(NAMES):
        gallery.enroll(name, unit(number)[None])
    wire(cameras=lambda: dict.fromkeys((n[:64] for n in NAMES), True))

    def configs() -> dict[str, dict]:
        return {
            t: json.loads(p) for t, p, _ in list(listener.messages) if t.endswith("/config") and p
        }

    until(lambda: len(configs()) == len(NAMES) + 1)
    topics, ids = set[str](), list[str]()
    for topic, payload in configs().items():
        assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic)
        jsonschema.Draft202012Validator(DEVICE).validate(payload)
        for one in payload["cmps"].values():
            ids.append(one["unique_id"])
            topics |= {v for k, v in one.items() if k.endswith("_topic")}
    assert len(ids) == len(set(ids)) == 4 * len(NAMES) + len(NAMES)
    for topic, _, _ in list(listener.messages):
        assert re.fullmatch(r"[a-zA-Z0-9_/-]+", topic), topic
    devices = {p["dev"]["name"] for p in configs().values()}
    assert devices == {n[:64] for n in NAMES} | {"edgeface people"}
    people = configs()["homeassistant/device/edgeface_people/config"]["cmps"]
    assert {p["name"] for p in people.values()} == set(NAMES)
    assert all(t.startswith("edgeface/") for t in topics)
    gallery.forget("Alice")  # her entity goes, and stays away

    def gone() -> bool:
        found = [json.loads(p) for t, p, _ in list(listener.messages) if "_people/" in t]
        left = [c["cmps"].get("person_1") for c in found]
        return left[-1] is None and {"p": "sensor"} in left

    until(gone)


def test_the_schema_can_refuse() -> None:
    _, good = discovery.camera("door", "edgeface")
    check = jsonschema.Draft202012Validator(DEVICE)
    check.validate(good)
    for bad in (
        {k: v for k, v in good.items() if k != "o"},
        good | {"dev": {"name": "x"}},
        good | {"cmps": {"a": {"p": "sensor", "unique_id": "x"}}},
        good | {"cmps": {"a": {"p": "event", "unique_id": "x", "state_topic": "t"}}},
        good | {"cmps": {"a": {"p": "sensor", "unique_id": "x", "state_topic": "a/#"}}},
        good | {"cmps": {"a": {"p": "sensor", "unique_id": "ä", "state_topic": "a"}}},
        good | {"cmps": {"a b": {"p": "sensor"}}},
    ):
        assert not check.is_valid(bad), bad


def test_nothing_is_lost_while_the_broker_is_killed_and_started(
    store, gallery, broker, listener, wire, tmp_path, monkeypatch
) -> None:
    gallery.enroll("Alice", unit(1)[None])
    made = brokers.Broker._made

    def after_the_listener(self) -> paho.Client:
        """Who is not there when something is published cannot miss it: it comes back first."""
        client = made(self)
        client.on_pre_connect = lambda *_: listener.ready.wait(BOUND)
        return client

    monkeypatch.setattr(brokers.Broker, "_made", after_the_listener)
    wire(tmp_path / "mqtt.position", cameras=lambda: {"door": True})
    until(lambda: listener.last("edgeface/status") == "online")
    ended = threading.Event()

    def flow() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            kind = "seen" if number % 2 else "lost"
            store.record(event(number, (number + 1) // 2, kind, at=now()))
            time.sleep(0.02)

    flowing = threading.Thread(target=flow)
    flowing.start()
    for _ in range(ROUNDS):
        time.sleep(0.7)
        broker.kill()
        until(lambda: not listener.ready.is_set())
        time.sleep(0.3)
        before = len(listener.messages)
        broker.start()

        def discovered(before: int = before) -> bool:
            return any(t.endswith("/config") and not r for t, _, r in listener.messages[before:])

        until(discovered)
        reached = len(store.events(limit=100_000))
        until(lambda reached=reached: len(set(listener.ids())) >= reached)
        assert listener.last("edgeface/status") == "online"
    ended.set()
    flowing.join()
    logged = [e["id"] for e in store.events(limit=100_000)]
    until(lambda: set(listener.ids()) == set(logged))
    assert list(dict.fromkeys(listener.ids())) == logged  # in order, some twice


def test_availability_follows_the_process(store, broker, listener, wire) -> None:
    one = wire()
    until(lambda: listener.last("edgeface/status") == "online")
    assert one.close(BOUND)
    until(lambda: listener.last("edgeface/status") == "offline")
    two = wire()
    until(lambda: listener.last("edgeface/status") == "online")
    two._broker._client._sock.shutdown(
        socket.SHUT_RDWR
    )  # as when a process is killed: the last will
    until(
        lambda: (
            [p for t, p, _ in listener.messages if t == "edgeface/status"].count(b"offline") == 2
        )
    )
    until(lambda: listener.last("edgeface/status") == "online")


def test_discovery_is_sent_again_when_home_assistant_starts(store, listener, wire) -> None:
    wire(cameras=lambda: {"door": True})
    count = lambda: sum(t.endswith("/config") for t, _, _ in list(listener.messages))  # noqa: E731
    until(lambda: listener.last(f"{DOOR}/stranger") == "OFF")
    before = count()
    listener.publish("homeassistant/status", "online")
    until(lambda: count() > before)


def test_it_goes_on_after_a_restart_where_it_was(store, listener, wire, tmp_path) -> None:
    place = tmp_path / "mqtt.position"
    one = wire(place)
    store.record(event(1, 1, at=now()))
    until(lambda: len(listener.ids()) == 1)
    assert one.close(BOUND)
    for number in (2, 3):
        store.record(event(number, number, at=now()))
    wire(place)
    until(lambda: listener.ids() == ["r-00000001", "r-00000002", "r-00000003"])


def test_without_discovery_and_people(store, gallery, listener, wire) -> None:
    alice = gallery.enroll("Alice", unit(1)[None])
    wire(discovery=None, people=False, prefix="home/faces")
    store.record(event(1, 1, "seen", alice, at=now()))
    until(lambda: listener.last("home/faces/events"))
    assert not [t for t, _, _ in listener.messages if "config" in t or "person" in t]


def test_a_broker_that_never_comes_holds_nothing_up(store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        wire = Mqtt(store, MqttOptions(f"mqtt://127.0.0.1:{taken.getsockname()[1]}"))
        wire.start()
        store.record(event(1, 1, at=now()))
        begin = time.monotonic()
        assert wire.close(5.0)
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "http://h"}, "no broker"),
        ({"url": "mqtt://"}, "no broker"),
        ({"url": "mqtt://u:topsecret@h:0"}, "no broker"),
        ({"prefix": "a/#"}, "begins no topic"),
        ({"prefix": ""}, "begins no topic"),
        ({"discovery": "a b"}, "begins no topic"),
        ({"max_age": 0.0}, "above 0"),
    ],
)
def test_what_no_broker_is_made_of(fields, says: str) -> None:
    with pytest.raises(ArgumentError, match=says) as caught:
        MqttOptions(**{"url": "mqtt://h"} | fields)
    assert "topsecret" not in str(caught.value)


def test_certificates_that_are_none_are_told(store, tmp_path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("none")
    with pytest.raises(ArgumentError, match="holds no certificates"):
        Mqtt(store, MqttOptions("mqtts://h", ca=file))


class Authority:
    """Signs the certificates of brokers."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._made(self._name, self._key, x509.BasicConstraints(True, 0))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(own.public_bytes(Encoding.PEM))

    def settings(self, host: str) -> str:
        """What tells a mosquitto to answer with a certificate for a host."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        place = [x509.IPAddress(ipaddress.ip_address(host))]
        signed = self._made(name, key, x509.SubjectAlternativeName(place))
        files = {"certfile": signed.public_bytes(Encoding.PEM), "keyfile": key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )}  # fmt: skip
        for option, content in files.items():
            (self._folder / option).write_bytes(content)
            (self._folder / option).chmod(0o644)  # mosquitto gives up root before it reads them
        return "".join(f"{option} {self._folder / option}\n" for option in files)

    def _made(self, subject, key, extension) -> x509.Certificate:
        at = datetime.now(UTC)
        ours = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - timedelta(hours=1))
            .not_valid_after(at + timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(
                x509.KeyUsage(
                    True, False, False, False, False, key is self._key, False, False, False
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), False)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Callable[[str], tuple[Broker, Authority]]]:
    """A mosquitto with TLS, whose certificate is for a host, and who signed it."""
    require_mosquitto()
    made = list[Broker]()
    # mosquitto gives up root, and pytest's folders are for their owner alone.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)

        def make(host: str) -> tuple[Broker, Authority]:
            authority = Authority(Path(folder), "ours")
            new = Broker(Path(folder), authority.settings(host))
            new.start()
            made.append(new)
            return new, authority

        yield make
        for one in made:
            one.kill()


def test_events_go_over_tls(store, encrypted, caplog) -> None:
    broker, authority = encrypted("127.0.0.1")
    listener = paho.Client(paho.CallbackAPIVersion.VERSION2)
    listener.tls_set(str(authority.file))
    taken, ready = list[str](), threading.Event()
    listener.on_connect = lambda c, *_: c.subscribe("edgeface/events", qos=1)
    listener.on_subscribe = lambda *_: ready.set()
    listener.on_message = lambda _, __, m: taken.append(json.loads(m.payload)["id"])
    listener.connect("127.0.0.1", broker.port)
    listener.loop_start()
    assert ready.wait(BOUND)
    wire = Mqtt(store, MqttOptions(broker.url, ca=authority.file))
    wire.start()
    try:
        store.record(event(1, 1, at=now()))
        until(lambda: taken == ["r-00000001"])
    finally:
        assert wire.close(BOUND)
        listener.disconnect()
        listener.loop_stop()
    assert "cannot be reached" not in caplog.text


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("wrong", ["authority", "system", "host", "plain"])
def test_a_broker_that_is_not_to_be_trusted_gets_nothing(
    store, encrypted, broker, tmp_path, caplog, wrong
) -> None:
    other, authority = encrypted("127.0.0.1" if wrong != "host" else "10.1.2.3")
    ca = {"authority": Authority(tmp_path, "theirs").file, "system": None}.get(
        wrong, authority.file
    )
    url = other.url if wrong != "plain" else broker.url.replace("mqtt:", "mqtts:")
    wire = Mqtt(store, MqttOptions(url, ca=ca))
    wire.start()
    try:
        store.record(event(1, 1, at=now()))
        until(lambda: "the MQTT broker cannot be reached" in caplog.text)
        time.sleep(1.2)  # it tries again, and does not say the same again
    finally:
        assert wire.close(BOUND)
    (said,) = (m for m in caplog.messages if "cannot be reached" in m)
    says = {
        "authority": f"its certificate is refused .* signed by an authority that {ca} holds",
        "system": "its certificate is refused .* signed by an authority that the system trusts",
        "host": r"IP address mismatch.*it must be for the host in the address",
        "plain": "no TLS there",
    }
    assert re.search(says[wrong], said)
    assert wire.reader.delivered == 0
