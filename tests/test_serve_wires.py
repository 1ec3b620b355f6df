"""The service's settings make wires, and its events go over them."""

# ruff: noqa: F811 - the fixtures of another file

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT
from test_webhook import Receiver, receiver, until  # noqa: F401

pytest.importorskip("starlette")

from edgeface.errors import ArgumentError
from edgeface.serve.config import load
from edgeface.serve.service import opened
from edgeface.wires import Mqtt, MqttOptions, WebhookOptions
from edgeface.wires.tables import mqtt_of, webhook_of


def test_events_of_a_camera_reach_a_webhook(
    receiver: Receiver, sample: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("swordfish\n")
    (tmp_path / "s.toml").write_text(
        f"gallery = '{tmp_path / 'g.gallery'}'\n[[cameras]]\nname = 'door'\nevery = 4\n"
        f"source = '{sample / 'clip.mp4'}'\n[[webhooks]]\nurl = '{receiver.url}'\n"
        f"secret_file = '{tmp_path / 'secret'}'\nevents = ['seen', 'lost']\n"
    )
    settings = load(tmp_path / "s.toml", {}, {})
    assert "swordfish" not in repr(settings)
    with opened(settings) as service:
        until(lambda: service.cameras["door"].state().state == "ended")
        logged = [e["id"] for e in service.store.events() if e["event"] in ("seen", "lost")]
        until(lambda: receiver.taken() == logged)
    assert len(logged) >= 4 and json.loads(receiver.requests[0].body)["camera"] == "door"
    assert "X-Edgeface-Signature" in receiver.requests[0].headers
    assert len(list(tmp_path.glob("g.gallery.webhook-*"))) == 1


def test_the_settings_of_the_document_are_settings(tmp_path: Path) -> None:
    text = (ROOT / "docs/service.md").read_text(encoding="utf-8")
    (toml,) = (t for t in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[mqtt]" in t)
    (tmp_path / "s.toml").write_text(toml)
    found = load(tmp_path / "s.toml", {}, {})
    assert found.mqtt == MqttOptions("mqtt://192.168.1.5")
    assert found.webhooks == (
        WebhookOptions(
            "http://192.168.1.6/faces",
            events=("identified", "lost"),
            cameras=("door",),
            kinds=("known",),
        ),
    )


def test_every_option_has_its_key(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("topsecret")
    table = {"url": "mqtts://h", "password_file": str(tmp_path / "p"), "ca": "c", "prefix": "x",
             "discovery": False, "people": False, "max_age": 5}  # fmt: skip
    found = mqtt_of(table)
    assert found == MqttOptions("mqtts://h", "topsecret", Path("c"), "x", None, False, 5)
    assert mqtt_of(table | {"discovery": "ha"}).discovery == "ha"
    assert mqtt_of({"url": "mqtt://h", "discovery": True}).discovery == "homeassistant"
    hook = webhook_of({"url": "http://h", "timeout": 2, "max_age": 3.5, "crop": True})
    assert (hook.timeout, hook.max_age, hook.crop) == (2, 3.5, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[mqtt]\nprefix = 'x'", "no url"),
        ("[mqtt]\nurl = 'mqtt://h'\nuser = 'x'", "no 'user'"),
        ("[mqtt]\nurl = 3", "url of [mqtt] is 3"),
        ("[mqtt]\nurl = 'mqtt://h'\nmax_age = true", "max_age of [mqtt] is True"),
        ("[mqtt]\nurl = 'mqtt://h'\npassword_file = '/no/such'", "cannot be read"),
        ("[[webhooks]]\nurl = 'ftp://h'", "give http"),
        ("[[webhooks]]\nurl = 'http://h'\nevents = 'seen'", "events of [[webhooks]]"),
        ("webhooks = ['http://h']", "no url"),
        ("[[webhooks]]\nurl = 'http://h'\n[[webhooks]]\nurl = 'http://h'", "one url"),
        ("[webhooks]\nurl = 'http://h'", "a list is needed"),
    ],
)
def test_wires_that_cannot_be(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        "gallery = 'g'\n" + text if text.startswith("[") else f"{text}\ngallery = 'g'\n"
    )
    with pytest.raises(ArgumentError, match=re.escape(says)):
        load(tmp_path / "s.toml", {}, {})


def test_mqtt_is_made_from_settings(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt.client")
    (tmp_path / "s.toml").write_text(
        f"gallery = '{tmp_path / 'g.gallery'}'\n[mqtt]\nurl = 'mqtt://127.0.0.1:1'\n"
    )
    with opened(load(tmp_path / "s.toml", {}, {})) as service:
        assert [type(wire) for wire in service.wires] == [Mqtt]
