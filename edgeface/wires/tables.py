"""Wires as tables of a settings file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeface.errors import ArgumentError
from edgeface.sightings import Sightings
from edgeface.wires.broker import MqttOptions
from edgeface.wires.frigate import Frigate, FrigateOptions
from edgeface.wires.mqtt import Mqtt
from edgeface.wires.webhook import Webhook, WebhookOptions

_MQTT: dict[str, Any] = {
    "url": str, "password_file": str, "ca": str, "prefix": str, "discovery": bool | str,
    "people": bool, "max_age": float | int,
}  # fmt: skip
_FRIGATE: dict[str, Any] = {
    "url": str, "rtsp": str, "password_file": str, "labels": bool, "kinds": list, "cameras": dict,
    "timeout": float | int, "max_age": float | int,
}  # fmt: skip
_WEBHOOK: dict[str, Any] = {
    "url": str, "secret_file": str, "events": list, "cameras": list, "kinds": list, "crop": bool,
    "timeout": float | int, "max_age": float | int,
}  # fmt: skip


def mqtt_of(table: Mapping[str, Any]) -> MqttOptions:
    """The options of a table `[mqtt]`: those of `MqttOptions`, the password in a file
    (`password_file`), `discovery = false` for none.

    Raises:
        ArgumentError: an unknown key, a value of the wrong type, no address, or a file that cannot
            be read.
    """
    found = _checked(table, _MQTT, "[mqtt]")
    if "ca" in found:
        found["ca"] = Path(found["ca"])
    if isinstance(found.get("discovery"), bool):
        kept = found.pop("discovery")
        found |= {} if kept else {"discovery": None}
    return MqttOptions(**_unsealed(found, "password"))


def webhook_of(table: Mapping[str, Any]) -> WebhookOptions:
    """The options of a table `[[webhooks]]`: those of `WebhookOptions`, the secret in a file
    (`secret_file`).

    Raises:
        ArgumentError: see `mqtt_of`.
    """
    found = _checked(table, _WEBHOOK, "[[webhooks]]")
    for key in ("events", "cameras", "kinds"):
        if key in found:
            found[key] = tuple(map(str, found[key]))
    return WebhookOptions(**_unsealed(found, "secret"))


def frigate_of(table: Mapping[str, Any]) -> FrigateOptions:
    """The options of a table `[frigate]`: those of `FrigateOptions`, the password in a file
    (`password_file`).

    Raises:
        ArgumentError: see `mqtt_of`.
    """
    found = _checked(table, _FRIGATE, "[frigate]")
    if "kinds" in found:
        found["kinds"] = tuple(map(str, found["kinds"]))
    if "cameras" in found:
        found["cameras"] = {name: str(theirs) for name, theirs in found["cameras"].items()}
    return FrigateOptions(**_unsealed(found, "password"))


def wires(
    store: Sightings,
    mqtt: MqttOptions | None,
    webhooks: Sequence[WebhookOptions],
    frigate: FrigateOptions | None = None,
    *,
    cameras: Callable[[], Mapping[str, bool]],
    source: Callable[[str], str],
    beside: Path,
) -> list[Mqtt | Webhook | Frigate]:
    """The wires, not yet started; how far each came is kept in files named after `beside`.

    Args:
        store: whose log they read.
        mqtt, webhooks, frigate: where to.
        cameras: the cameras there are, and whether each is up.
        source: the source of a camera by its name; empty if there is none.
        beside: path that their files are named after.

    Raises:
        DependencyError, ArgumentError: see `Mqtt`.
    """
    made: list[Mqtt | Webhook | Frigate] = []
    tell = None
    if mqtt is not None:
        broker = Mqtt(store, mqtt, cameras=cameras, place=Path(f"{beside}.mqtt"))
        made.append(broker)
        tell = broker.update
    if frigate is not None and frigate.labels:
        made.append(
            Frigate(
                store,
                frigate,
                camera=lambda name: frigate.camera(name, source(name)),
                tell=tell,
                place=Path(f"{beside}.frigate"),
            )
        )
    for options in webhooks:
        digest = hashlib.sha256(options.url.encode()).hexdigest()[:8]
        made.append(Webhook(store, options, place=Path(f"{beside}.webhook-{digest}")))
    return made


def _checked(table: Mapping[str, Any], types: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(table, Mapping) or "url" not in table:
        raise ArgumentError(f"{name} has no url: say where it is")
    for key, value in table.items():
        if key not in types:
            raise ArgumentError(f"{name} has no {key!r}; it has: {', '.join(sorted(types))}")
        kinds = getattr(types[key], "__args__", (types[key],))
        if (isinstance(value, bool) and bool not in kinds) or not isinstance(value, types[key]):
            raise ArgumentError(f"{key} of {name} is {value!r}, a {type(value).__name__}")
    return dict(table)


def _unsealed(found: dict[str, Any], name: str) -> dict[str, Any]:
    path = found.pop(f"{name}_file", None)
    if path is None:
        return found
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"the {name} cannot be read from {path}: {error}") from error
    if not text:
        raise ArgumentError(f"the file {path} is empty: write the {name} into it")
    return found | {name: text}
