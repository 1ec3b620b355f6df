"""Starting and stopping the service, and its settings."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from command_line import Run
from conftest import ROOT

from edgeface.cameras import CameraSpec
from edgeface.errors import ArgumentError
from edgeface.gallery import Gallery
from edgeface.serve.config import load
from edgeface.serve.service import token_of
from edgeface.sightings import Sightings

BOUND = 60.0
TOKEN = "t" * 24


@contextmanager
def command(*options: str, cwd: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeface.cli", "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    timer = threading.Timer(BOUND, process.kill)
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def link(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.fullmatch(r"edgeface: open (http://127\.0\.0\.1:\d+/\?token=\w+)\n", line)
    assert found, line + process.stderr.read()
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_demo_names_somebody_and_ends_cleanly(tmp_path: Path, number: int) -> None:
    options = ("--demo", "--gallery", "d.gallery", "--port", "0", "--threads", "1")
    with command(*options, cwd=tmp_path) as process:
        address = link(process)
        begin = time.monotonic()
        base = address.partition("/?")[0]
        with httpx.Client(base_url=base, timeout=BOUND, follow_redirects=True) as browser:
            assert browser.get("/v1/cameras").status_code == 401
            page = browser.get(address)
            assert page.url.query == b"" and "<title>edgeface" in page.text
            while True:
                seen = browser.get("/v1/sightings").json()["sightings"]
                if "Eileen Collins" in {row["name"] for row in seen}:
                    break
                assert time.monotonic() - begin < BOUND
                time.sleep(0.1)
            events = {"Accept": "text/event-stream"}
            with (
                browser.stream("GET", "/v1/events", headers=events) as stream,
                browser.stream("GET", "/v1/cameras/demo/preview.mjpeg") as preview,
            ):
                next(stream.iter_raw())
                next(preview.iter_raw())
                process.send_signal(number)
                begin = time.monotonic()
                assert process.wait(BOUND) == 0
                assert time.monotonic() - begin < 20  # open streams are not waited for
        out, messages = process.communicate()
        assert (out, messages) == ("", "")
    with Gallery.open(tmp_path / "d.gallery") as gallery, Sightings.open(gallery) as store:
        told = store.events(None, 10_000)
    tracks = {kind: {(e["run"], e["track"]) for e in told if e["event"] == kind}
              for kind in ("seen", "lost")}  # fmt: skip
    assert tracks["seen"] == tracks["lost"] != set()


@pytest.mark.parametrize(
    ("options", "environment", "says"),
    [
        (("--host", "0.0.0.0", "-g", "g"), {}, "a token is needed"),
        (("--host", "0.0.0.0", "-g", "g"), {"EDGEFACE_TOKEN": "short"}, "16 or more"),
        (("-g", "g", "--camera", "rtsp://u:secret@h/"), {}, "NAME=SOURCE"),
        (("-g", "g", "--camera", "a=0", "--camera", "a=1"), {}, "two cameras"),
        (("-g", "g", "--port", "70000"), {}, "0 to 65535"),
        (("-g", "g", "--host", "no such host"), {"EDGEFACE_TOKEN": TOKEN}, "no address"),
        ((), {}, "no gallery"),
        (("none.toml",), {}, "cannot be read"),
        (("-g", "/no/such/folder/g"), {}, "/no/such/folder"),
    ],
)  # fmt: skip
def test_what_it_does_not_start_with(
    options, environment, says, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    result = run("serve", *options)
    assert result.code == 2 and says in result.err and "secret" not in result.err, result
    assert "Traceback" not in result.err


def test_a_port_that_is_taken_is_told(run: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("serve", "-g", tmp_path / "g", "--port", port)
    assert result.code == 2 and f"port {port} cannot be listened on" in result.err


FILE = """
gallery = "file.gallery"
port = 1000
hosts = ["Cams.Example.org"]
learn = false
[[cameras]]
name = "door"
source = "rtsp://h/x"
every = 2
[expiry]
strangers = 0
known = 5.5
"""


def test_options_overrule_the_environment_which_overrules_the_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(FILE)
    plain = load(file, {}, {})
    assert (plain.gallery, plain.port, plain.hosts) == ("file.gallery", 1000, ("cams.example.org",))
    assert plain.cameras == (CameraSpec("door", "rtsp://h/x", 2),)
    assert (plain.learn, plain.expiry.strangers, plain.expiry.known) == (False, None, 5.5)
    assert plain.expiry.crops == 3.0
    (tmp_path / "t").write_text(TOKEN + "\n")
    environment = {
        "EDGEFACE_GALLERY": "env.gallery",
        "EDGEFACE_PORT": "2000",
        "EDGEFACE_HOSTS": "a.example, b.example",
        "EDGEFACE_TOKEN_FILE": str(tmp_path / "t"),
        "EDGEFACE_CAMERA_YARD": "rtsp://u:p@h/y",
        "EDGEFACE_HOME": "elsewhere",
    }
    both = load(file, environment, {"port": None, "cameras": []})
    assert (both.gallery, both.port, both.token) == ("env.gallery", 2000, TOKEN)
    assert [c.name for c in both.cameras] == ["door", "yard"]
    assert both.hosts == ("a.example", "b.example")
    given = {"port": 3000, "gallery": "given", "cameras": [{"name": "c", "source": "0"}]}
    every = load(file, environment, given)
    assert (every.gallery, every.port) == ("given", 3000)
    assert [c.name for c in every.cameras] == ["door", "yard", "c"]
    assert TOKEN not in repr(every)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("galery = 'x'", "no setting 'galery'"),
        ("gallery = 3", "a str is needed"),
        ("gallery = 'g'\nport = true", "int"),
        ("gallery = 'g'\nport = '8'", "int"),
        ("gallery = [", "no TOML"),
        ("gallery = 'g'\n[[cameras]]\nname = 'x'", "name and source"),
        ("gallery = 'g'\n[[cameras]]\nname = 'a/b'\nsource = '0'", "leave out the /"),
        ("gallery = 'g'\n[[cameras]]\nname = 'x'\nsource = 0", "a str is needed"),
        ("gallery = 'g'\n[expiry]\nstranger = 1", "no 'stranger'"),
        ("gallery = 'g'\n[expiry]\nstrangers = 'a'", "a number"),
        ("gallery = 'g'\n[expiry]\nstrangers = -1", "days"),
        ("gallery = 'g'\ntoken_file = '/no/such'", "cannot be read"),
        (f"gallery = 'g'\ntoken = '{TOKEN}'\nread_token = '{TOKEN}'", "the same"),
        ("gallery = 'postgresql://h/d'", "on a server"),
    ],
)
def test_settings_that_cannot_be(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ArgumentError, match=re.escape(says)):
        load(tmp_path / "s.toml", {}, {})


def test_a_token_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    settings = load(None, {}, {"gallery": str(tmp_path / "g")})
    token = token_of(settings)
    assert token_of(settings) == token and len(token) >= 24
    file = tmp_path / "g.token"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("")  # as a full disk leaves it
    assert len(token_of(settings)) >= 24


def test_help_needs_none_of_it() -> None:
    code = (
        "import sys; sys.argv = ['edgeface', 'serve', '--help']\n"
        "from edgeface.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {'starlette', 'uvicorn', 'numpy', 'cv2'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_without_the_extra_it_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.startswith("edgeface.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("serve", "-g", tmp_path / "g")
    assert result.code == 2 and "pip install 'edgeface[serve]'" in result.err
