"""What Home Assistant is told so that it makes entities by itself: device discovery over MQTT.

The fields are those of https://www.home-assistant.io/integrations/mqtt/ (device discovery payload)
and of the pages of sensor, event, binary_sensor and image there. Names only ever stand in `name`
and in payloads: topics and ids are made of letters, digits, `_` and `-`, which MQTT and Home
Assistant take.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from edgeface import __version__

FACES = ("seen", "identified", "changed", "lost")
LINKS = ("camera_lost", "camera_back")
ORIGIN = {"name": "edgeface", "sw": __version__}
MAKER = "edgeface"

Payload = dict[str, Any]


def slug(name: str) -> str:
    """What stands for a name in topics and ids: readable where it can be, and its own for every
    name."""
    plain = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")[:24]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}_{digest}" if plain else digest


def camera(name: str, prefix: str) -> tuple[str, Payload]:
    """The object id and the discovery payload of a camera: who is present, what happens, whether
    somebody unknown is there, and the newest face."""
    own, place = f"{_own(prefix)}_{slug(name)}", topic(prefix, name)
    entities: Payload = {
        "present": {
            "p": "sensor", "name": "Present", "icon": "mdi:face-recognition",
            "state_topic": f"{place}/present", "json_attributes_topic": f"{place}/attributes",
        },
        "event": {
            "p": "event", "name": "Face", "state_topic": f"{place}/event",
            "event_types": [*FACES, *LINKS],
        },
        "stranger": {
            "p": "binary_sensor", "name": "Stranger", "device_class": "occupancy",
            "state_topic": f"{place}/stranger", "payload_on": "ON", "payload_off": "OFF",
        },
        "image": {
            "p": "image", "name": "Newest face", "image_topic": f"{place}/image",
            "content_type": "image/jpeg",
        },
    }  # fmt: skip
    for key, entity in entities.items():
        entity["unique_id"] = f"{own}_{key}"
        # A camera that is away has nobody to show, but still news to tell.
        if key in {"present", "stranger"}:
            entity["availability"] = [{"topic": f"{prefix}/status"}, {"topic": f"{place}/status"}]
            entity["availability_mode"] = "all"
        else:
            entity["availability"] = [{"topic": f"{prefix}/status"}]
    device = {"ids": [own], "name": name, "mf": MAKER, "mdl": "camera"}
    return own, {"dev": device, "o": ORIGIN, "cmps": entities, "qos": 1}


def people(
    names: Mapping[int, str], prefix: str, gone: frozenset[int] = frozenset()
) -> tuple[str, Payload]:
    """The object id and the discovery payload of the people by id: by which camera each was seen
    last. Of those `gone` the entity is taken away."""
    own = f"{_own(prefix)}_people"
    entities: Payload = {f"person_{number}": {"p": "sensor"} for number in sorted(gone)}
    for number, name in names.items():
        place = f"{prefix}/person/{number}"
        entities[f"person_{number}"] = {
            "p": "sensor", "name": name, "icon": "mdi:account", "unique_id": f"{own}_{number}",
            "state_topic": f"{place}/camera", "json_attributes_topic": f"{place}/attributes",
            "availability": [{"topic": f"{prefix}/status"}],
        }  # fmt: skip
    device = {"ids": [own], "name": "edgeface people", "mf": MAKER, "mdl": "people"}
    return own, {"dev": device, "o": ORIGIN, "cmps": entities, "qos": 1}


def _own(prefix: str) -> str:
    return prefix if re.fullmatch("[a-z0-9]+", prefix) else slug(prefix)


def topic(prefix: str, name: str) -> str:
    """Where the topics of a camera are."""
    return f"{prefix}/camera/{slug(name)}"
