"""What runs edgeface for people: systemd, a container, Home Assistant. Their files are held against
the commands and settings that there are, and what systemd is told against a socket."""

from __future__ import annotations

import ast
import http.server
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import typer
from answering import Answering
from conftest import ROOT

pytest.importorskip("starlette")

from edgeface import cli
from edgeface.errors import ArgumentError, OutputError
from edgeface.serve import notify
from edgeface.serve.config import ServiceSettings, load
from edgeface.serve.notify import Supervisor
from edgeface.serve.probe import probe

PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "systemd" / "edgeface@.service"
ADDON = PACKAGING / "homeassistant" / "edgeface"


def check_command(words: list[str]) -> None:
    """The words after `edgeface` are a command and options that there are."""
    root = typer.main.get_command(cli.app)
    context = root.make_context("edgeface", list(words))
    name, command, rest = root.resolve_command(context, list(words))
    command.make_context(name, rest, parent=context)


def test_a_command_that_is_none_is_refused() -> None:
    for words in (["server"], ["serve", "--demoo"], ["doctor", "--service"]):
        with pytest.raises(Exception, match=r"No such|requires an argument"):
            check_command(words)


# systemd


def unit() -> list[tuple[str, str]]:
    """The settings of the unit, comments and sections left out."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [
        (line.partition("=")[0], line.partition("=")[2])
        for line in lines
        if line and line[0] not in "#["
    ]


def test_the_unit_starts_a_command_that_there_is() -> None:
    found = dict(unit())
    program, *words = shlex.split(found["ExecStart"].replace("%i", "office"))
    assert Path(program).name == "edgeface"
    check_command(words)
    assert found["Type"] == "notify" and found["WatchdogSec"] == "30"
    assert found["WorkingDirectory"] == f"/var/lib/{found['StateDirectory']}"
    known = (ROOT / "docs" / "cli.md").read_text() + (ROOT / "docs" / "service.md").read_text()
    named = {v.partition("=")[0] for k, v in unit() if k == "Environment"}
    assert named and all(name in known for name in named), named


def test_systemd_finds_little_to_attack(tmp_path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    shutil.copy(UNIT, tmp_path / "edgeface@x.service")
    done = subprocess.run(
        [analyze, "security", "--offline=true", str(tmp_path / "edgeface@x.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for edgeface@x.service: ([\d.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze looks at no files: {done.stderr[:200]}")
    assert float(found[1]) <= 2.0, done.stdout


class Systemd:
    """The socket that a service tells of itself."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(60)

    def hear(self) -> str:
        return self.socket.recv(4096).decode()

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_states_are_datagrams(tmp_path, abstract: bool) -> None:
    address = f"@edgeface-{os.getpid()}" if abstract else str(tmp_path / "notify")
    systemd = Systemd(address)
    told = Supervisor({"NOTIFY_SOCKET": address})
    assert told.tell("READY=1", "STATUS=four cameras")
    assert systemd.hear() == "READY=1\nSTATUS=four cameras"
    told.live()  # nobody waits for it
    assert told.tell("STOPPING=1") and systemd.hear() == "STOPPING=1"
    systemd.close()


def test_signs_of_life_come_in_time(tmp_path, monkeypatch) -> None:
    systemd = Systemd(str(tmp_path / "n"))
    now = [100.0]
    monkeypatch.setattr(notify.time, "monotonic", lambda: now[0])
    about = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "30000000"}
    told = Supervisor(about | {"WATCHDOG_PID": str(os.getpid())})
    other = Supervisor(about | {"WATCHDOG_PID": "1"})  # waits for another process's
    heard = 0
    systemd.socket.setblocking(False)
    for _ in range(600):  # a minute
        told.live()
        other.live()
        now[0] += 0.1
        try:
            assert systemd.hear() == "WATCHDOG=1"
            heard += 1
        except BlockingIOError:
            pass
    assert heard == 5  # one every 12 s: two may be lost
    systemd.close()


def test_without_systemd_nothing_happens(tmp_path, caplog) -> None:
    assert not Supervisor({}).tell("READY=1")
    Supervisor({"WATCHDOG_USEC": "rubbish"}).live()
    assert not caplog.messages
    assert not Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    assert "cannot be told READY=1" in caplog.text


def test_a_service_tells_systemd_when_it_is_ready_alive_and_ending(tmp_path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with pytest.raises(OutputError, match="no service answers"):
        probe(address)
    service = subprocess.Popen(
        [sys.executable, "-m", "edgeface.cli", "serve", "--gallery", str(tmp_path / "g"),
         "--port", str(port)],
        cwd=ROOT, stderr=subprocess.DEVNULL,
        env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"},
    )  # fmt: skip
    try:
        assert systemd.hear() == "READY=1"
        probe(f"{address}/")  # ready is ready
        assert [systemd.hear() for _ in range(3)] == ["WATCHDOG=1"] * 3
        service.send_signal(signal.SIGSTOP)  # a service that hangs gives no sign
        systemd.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            while True:
                systemd.hear()
        service.send_signal(signal.SIGCONT)
        systemd.socket.settimeout(60)
        service.terminate()
        while (state := systemd.hear()) != "STOPPING=1":
            assert state == "WATCHDOG=1"
        assert service.wait(60) == 0
    finally:
        service.kill()
        service.wait()
        systemd.close()


def test_what_is_no_service_is_told(run) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"/a/v1/health": b"hello", "/b/v1/health": b"[]"}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with Answering(Other) as server:
        for path, says in (("", "answers 404"), ("/a", "no service answers"), ("/b", "no healthy")):
            with pytest.raises(OutputError, match=says):
                probe(server.address + path)
        done = run("doctor", "--service", server.address)
        assert done.code == 2 and "answers 404" in done.err
    with pytest.raises(ArgumentError, match="no address"):
        probe("file:///etc/passwd")


# The container


def instructions(file: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", file.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_container_runs_commands_that_there_are() -> None:
    found = instructions(PACKAGING / "Containerfile")
    last = dict(found)
    assert json.loads(last["ENTRYPOINT"]) == ["edgeface"]
    check_command(json.loads(last["CMD"]))
    program, *words = ast.literal_eval(last["HEALTHCHECK"].split("CMD ", 1)[1])
    assert program == "edgeface"
    check_command(words)
    assert last["USER"].split(":")[0] not in ("0", "root") and last["VOLUME"] == "/data"
    assert not [value for key, value in found if key == "ADD" or "curl" in value]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = re.search(r"/source\[([\w,]+)\]", (PACKAGING / "Containerfile").read_text())
    assert asked and set(asked[1].split(",")) <= set(extras["optional-dependencies"])


def test_the_container_asks_for_a_token() -> None:
    last = dict(instructions(PACKAGING / "Containerfile"))
    environment = dict(re.findall(r"(EDGEFACE_\w+)=(\S+)", last["ENV"]))
    with pytest.raises(ArgumentError, match="a token is needed"):
        load(None, environment, {})
    settings = load(None, environment | {"EDGEFACE_TOKEN": "t" * 24}, {})
    assert (settings.gallery, settings.host) == ("/data/people.gallery", "0.0.0.0")


def test_scripts_are_sound() -> None:
    for script in (PACKAGING / "image", PACKAGING / "try-image"):
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", str(script)], check=True)


# Home Assistant

# Of https://developers.home-assistant.io/docs/add-ons/configuration: what an add-on must say, and
# may, as far as it is used here.
REQUIRED = {"name", "version", "slug", "description", "arch"}
OPTIONAL = {
    "startup", "boot", "init", "watchdog", "ingress", "ingress_port", "panel_icon", "panel_title",
    "ports", "ports_description", "services", "backup", "map", "options", "schema",
}  # fmt: skip


def addon() -> ModuleType:
    spec = importlib.util.spec_from_file_location("addon_run", ADDON / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_addon_says_what_home_assistant_documents() -> None:
    yaml = pytest.importorskip("yaml")
    about = yaml.safe_load((ADDON / "config.yaml").read_text())
    assert set(about) >= REQUIRED and set(about) <= REQUIRED | OPTIONAL
    assert set(about["arch"]) <= {"aarch64", "amd64"} and about["startup"] == "application"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["version"] == project["version"]
    assert about["ingress_port"] == 8377 and "8377/tcp" in about["ports"]
    assert set(about["options"]) == set(about["schema"])
    assert f"[PORT:{about['ingress_port']}]/v1/health" in about["watchdog"]
    last = dict(instructions(ADDON / "Dockerfile"))
    assert json.loads(last["CMD"]) == ["python", "/run.py"]


def test_options_of_the_addon_become_settings(tmp_path) -> None:
    run = addon()
    camera = {"name": 'fr"ont', "source": "rtsp://u:p@h/1", "every": 2}
    options = {"cameras": [camera], "learn": False, "mqtt": True, "token": ""}
    broker = {"host": "core-mosquitto", "port": 1883, "username": "addons", "password": "s3 cret",
              "ssl": False}  # fmt: skip
    first = run.settings(tmp_path, options, broker)
    (tmp_path / "s.toml").write_text(first)
    made = load(tmp_path / "s.toml", {}, {})
    assert isinstance(made, ServiceSettings) and made.trusted == ("172.30.32.2",)
    assert [(c.name, c.source, c.every) for c in made.cameras] == [('fr"ont', "rtsp://u:p@h/1", 2)]
    assert made.mqtt is not None and made.mqtt.url == "mqtt://addons@core-mosquitto:1883"
    assert made.mqtt.password == "s3 cret" and "s3 cret" not in first and not made.learn
    assert run.settings(tmp_path, options, broker) == first  # the token stays
    for name in ("token", "mqtt"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    (tmp_path / "s.toml").write_text(run.settings(tmp_path, {"token": "mine-" + "x" * 20}, None))
    assert load(tmp_path / "s.toml", {}, {}).token == "mine-" + "x" * 20


def test_the_addon_asks_its_supervisor_for_the_broker(tmp_path) -> None:
    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers["Authorization"] == "Bearer k" and self.path == "/services/mqtt"
            body = json.dumps({"result": "ok", "data": {"host": "b", "port": 1883}}).encode()
            self.send_response(200 if good else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with Answering(Api) as server:
        address = server.address
        (tmp_path / "edgeface").write_text('#!/bin/sh\ncat "$2"\n')
        (tmp_path / "edgeface").chmod(0o755)
        (tmp_path / "options.json").write_text('{"cameras": []}')
        told = subprocess.run(
            [sys.executable, str(ADDON / "run.py")], check=True, capture_output=True, text=True,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "EDGEFACE_HOME": str(tmp_path),
                 "SUPERVISOR": address, "SUPERVISOR_TOKEN": "k"},
        ).stdout  # fmt: skip
        assert 'url = "mqtt://b:1883"' in told and 'trusted = ["172.30.32.2"]' in told
        run = addon()
        assert run.broker_of(address, "wrong") is None
    assert run.broker_of(address, "k") is None
