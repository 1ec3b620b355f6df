"""The service's settings make wires, and its events go over them."""

# ruff: noqa: F811 - the fixtures of another file

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import ROOT
from test_frigate import StandIn, nvr  # noqa: F401
from test_live import serve  # noqa: F401
from test_webhook import Receiver, receiver, until  # noqa: F401

pytest.importorskip("starlette")

from edgeface.cameras import CameraSpec
from edgeface.errors import ArgumentError
from edgeface.identify import Identifier
from edgeface.serve.config import load
from edgeface.serve.service import opened
from edgeface.wires import FrigateOptions, Mqtt, MqttOptions, WebhookOptions
from edgeface.wires.tables import frigate_of, mqtt_of, webhook_of


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


def test_names_of_a_camera_reach_frigate(nvr: StandIn, sample: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "g.gallery"
    (tmp_path / "s.toml").write_text(
        f"gallery = '{gallery}'\n[[cameras]]\nname = 'door'\nevery = 2\n"
        f"source = '{sample / 'clip.mp4'}'\n[[cameras]]\nname = 'yard'\n"
        f"source = 'frigate://yard main'\n[frigate]\nurl = '{nvr.url}'\n"
        "rtsp = 'rtsp://127.0.0.1:1'\ncameras = { door = 'front_door' }\n"
    )
    with Identifier.open(gallery) as app:
        app.enroll("Eileen", [sample / "eileen.jpg"])
    names = {"door": "front_door", "yard": "yard main"}
    bodies = {
        (camera, x): nvr.follow(camera, (x, 0.0, 0.5, 1.0), datetime.now(UTC))
        for camera in names.values()
        for x in (0.0, 0.5)
    }
    with opened(load(tmp_path / "s.toml", {}, {})) as service:
        (wire,) = service.wires
        assert {n: wire.camera(n) for n in names} == names and wire.camera("none") is None
        until(lambda: service.cameras["door"].state().state == "ended")
        until(lambda: "Eileen" in nvr.labels().values())
        named = [e for e in service.store.events() if e.get("name") == "Eileen"]
        x1, _, x2, _ = named[-1]["box"]
        side = 0.5 if (x1 + x2) / 2 > named[-1]["size"][0] / 2 else 0.0
        labels = {key: nvr.labels()[body] for key, body in bodies.items()}
        assert [k for k, label in labels.items() if label] == [("front_door", side)]
        until(lambda: service.cameras["yard"].state().error)
        assert service.cameras["yard"].state().source == "frigate://yard main"


def test_a_stream_of_frigate_is_watched(
    nvr: StandIn, serve: Callable[..., str], tmp_path: Path
) -> None:
    """go2rtc's restream, with a user; the camera is added while the service runs."""
    place = serve("bob:ri/ght").removeprefix("rtsp://")
    host, _, name = place.partition("/")
    (tmp_path / "go2rtc").write_text("ri/ght")
    (tmp_path / "s.toml").write_text(
        f"gallery = '{tmp_path / 'g.gallery'}'\n[frigate]\nurl = '{nvr.url}'\n"
        f"rtsp = 'rtsp://bob@{host}'\npassword_file = '{tmp_path / 'go2rtc'}'\n"
    )
    with opened(load(tmp_path / "s.toml", {}, {})) as service:
        service.add_camera(CameraSpec("hall", f"frigate://{name}"))
        until(lambda: service.cameras["hall"].state().frames)
        assert service.cameras["hall"].state().source == "frigate://cam"
    assert "ri/ght" not in (tmp_path / "g.gallery.cameras.json").read_text()
    (tmp_path / "none.toml").write_text(f"gallery = '{tmp_path / 'h.gallery'}'\n")
    with opened(load(tmp_path / "none.toml", {}, {})) as service:
        with pytest.raises(ArgumentError, match=r"url under \[frigate\]"):
            service.add_camera(CameraSpec("hall", "frigate://cam"))
        assert len(service.cameras) == 0


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
    assert found.frigate == FrigateOptions("http://frigate:5000", cameras={"door": "front_door"})
    assert found.cameras[1].source == "frigate://yard"


def test_every_option_has_its_key(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("rtsppass")
    there = {"url": "http://h:5000", "rtsp": "rtsp://u@h:8554", "labels": False,
             "password_file": str(tmp_path / "r"), "kinds": ["known", "stranger"],
             "cameras": {"door": "front"}, "timeout": 2, "max_age": 3.5}  # fmt: skip
    assert frigate_of(there) == FrigateOptions(
        "http://h:5000", "rtsp://u@h:8554", "rtsppass", False, ("known", "stranger"),
        {"door": "front"}, 2, 3.5,
    )  # fmt: skip
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
        ("[frigate]\nrtsp = 'rtsp://h'", "no url"),
        ("[frigate]\nurl = 'http://h'\nlabels = 1", "labels of [frigate] is 1"),
        ("[frigate]\nurl = 'http://h'\ntimeout = true", "timeout of [frigate] is True"),
        ("[[cameras]]\nname = 'a'\nsource = 'frigate://a'", "put url under [frigate]"),
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
