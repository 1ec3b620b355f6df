"""A connection to an MQTT broker, made again whenever it is lost."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from edgeface.errors import ArgumentError, DependencyError
from edgeface.redaction import redact
from edgeface.wires.reader import Undelivered

if TYPE_CHECKING:
    import paho.mqtt.client as paho

log = logging.getLogger(__name__)

DAY = 86_400.0
ACKNOWLEDGED = 10.0  # seconds for the broker to take a message
BACK = (1.0, 30.0)  # seconds until a lost connection is tried again, doubled from one to the other
# Messages on their way at once: brokers answer many together, but each alone after 40 ms (Nagle).
IN_FLIGHT = 200
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


class Broker:
    """Publishes messages while there is a connection; for any thread.

    Every connection has a client of its own. One that connected again would first send what the old
    connection had not been acknowledged, and so later events before earlier ones that the broker
    had acknowledged and took with it when it died.
    """

    def __init__(
        self,
        options: MqttOptions,
        *,
        will: str,
        subscribe: tuple[str, ...],
        heard: Callable[[bytes], None],
        ready: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        """Put it together; `start` connects.

        Args:
            options: where to.
            will: the topic that the broker is to publish `offline` at, retained, if we are cut off.
            subscribe: the topics whose messages are `heard`.
            ready: called when there is a connection.
            ended: called when one is lost.

        Raises:
            DependencyError: the package paho-mqtt is missing.
            ArgumentError: the certificates cannot be read.
        """
        self._options, self._will, self._subscribe = options, will, subscribe
        self._heard, self._ready, self._ended = heard, ready, ended
        self._tls = _tls(options)
        self._client = self._made()
        self._up, self._done = threading.Event(), threading.Event()
        self._pending: list[tuple[paho.Client, paho.MQTTMessageInfo]] = []
        self._thread = threading.Thread(target=self._run, name="edgeface-mqtt", daemon=True)

    def start(self) -> None:
        """Connect, and go on connecting until it works; this does not wait."""
        self._thread.start()

    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._up.is_set()

    def publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        """Send a message; `settle` waits until the broker has taken it."""
        client = self._client
        self._pending.append((client, client.publish(topic, payload, qos=1, retain=retain)))

    def settle(self, wait: float = ACKNOWLEDGED) -> None:
        """Wait until the broker has taken what was published.

        Raises:
            Undelivered: the connection was lost meanwhile, or it took too long.
        """
        pending, self._pending = self._pending, []
        end = time.monotonic() + wait
        for client, info in pending:
            while not info.is_published():
                left = end - time.monotonic()
                if not self._up.is_set() or client is not self._client or left <= 0:
                    raise Undelivered("the broker went away under way")
                info.wait_for_publish(min(left, 0.1))

    def close(self, last: str | None, timeout: float) -> None:
        """Publish `last` as our state, and end."""
        if self._up.is_set() and last is not None:
            self._pending.clear()
            try:
                self.publish(self._will, last, retain=True)
                self.settle(timeout)
            except Undelivered as error:
                log.warning("mqtt: %s", error)  # the last will says it
        self._done.set()
        self._client.disconnect()
        if self._thread.ident is not None:
            self._thread.join(CONNECT)

    # In a thread of its own

    def _run(self) -> None:
        parts, told, pause = urlsplit(self._options.url), "", BACK[0]
        while not self._done.is_set():
            self._client = client = self._made()
            try:
                client.connect(parts.hostname or "", parts.port or PORTS[parts.scheme])
                told = ""
                client.loop_forever()  # until the connection is lost
            except OSError as error:
                failure = _explained(error, self._options)
                if failure != told:  # once, not every half minute
                    log.warning("the MQTT broker cannot be reached: %s", failure)
                told = failure
            if self._up.is_set():
                self._up.clear()
                self._ended()
                pause = BACK[0]
            self._done.wait(pause)
            pause = min(2 * pause, BACK[1])

    def _made(self) -> paho.Client:
        try:
            import paho.mqtt.client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise DependencyError(
                "MQTT needs paho-mqtt; run: pip install 'edgeface[mqtt]'"
            ) from error
        client = paho.Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        parts = urlsplit(self._options.url)
        if parts.username is not None:
            password = self._options.password or unquote(parts.password or "")
            client.username_pw_set(unquote(parts.username), password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.will_set(self._will, "offline", qos=1, retain=True)
        client.connect_timeout = CONNECT
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message = lambda _, __, message: self._heard(bytes(message.payload))
        client.max_inflight_messages_set(IN_FLIGHT)
        return client

    def _on_connect(self, client: paho.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            log.warning("the MQTT broker refuses: %s", reason)
            return
        for topic in self._subscribe:
            client.subscribe(topic, qos=1)
        self._up.set()
        self._ready()

    def _on_disconnect(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if self._up.is_set() and not self._done.is_set():
            log.warning("the MQTT broker is lost: %s", reason)


def _tls(options: MqttOptions) -> ssl.SSLContext | None:
    if urlsplit(options.url).scheme != "mqtts":
        return None
    try:
        return ssl.create_default_context(cafile=options.ca)
    except OSError as error:
        raise ArgumentError(f"{options.ca} holds no certificates: {error}") from error


def _explained(error: OSError, options: MqttOptions) -> str:
    """Why a connection failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = "the system trusts" if options.ca is None else f"{options.ca} holds"
        return (
            f"its certificate is refused ({error.verify_message}): it must be for the host in the "
            f"address and signed by an authority that {trusted}"
        )
    encrypted = urlsplit(options.url).scheme == "mqtts"
    if encrypted and isinstance(error, ssl.SSLError | ConnectionResetError):
        return f"no TLS there ({error.strerror}): use mqtt:// if the broker has none"
    return str(error.strerror or error or "no answer")
