"""Starts edgeface as a Home Assistant add-on: what its page of options says becomes settings.

Home Assistant puts the options into /data/options.json, and tells of its broker at the address of
its supervisor. Users come through its ingress, which has asked for their password.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

INGRESS = "172.30.32.2"  # the only address that its ingress sends from
SUPERVISOR = "http://supervisor"


def settings(data: Path, options: dict[str, Any], broker: dict[str, Any] | None) -> str:
    """The settings of the service; secrets are files in `data`."""
    lines = [
        f"gallery = {json.dumps(str(data / 'people.gallery'))}",
        'host = "0.0.0.0"',
        "port = 8377",
        f'trusted = ["{INGRESS}"]',
        f"token_file = {json.dumps(str(keep(data / 'token', token(data, options))))}",
        f"learn = {json.dumps(options.get('learn', True))}",
    ]
    for camera in options.get("cameras", []):
        lines += ["[[cameras]]", *(f"{key} = {json.dumps(value)}" for key, value in camera.items())]
    if broker is not None and options.get("mqtt", True):
        scheme = "mqtts" if broker.get("ssl") else "mqtt"
        user = f"{broker['username']}@" if broker.get("username") else ""
        url = f"{scheme}://{user}{broker['host']}:{broker['port']}"
        lines += ["[mqtt]", f"url = {json.dumps(url)}"]
        if broker.get("password"):
            secret = keep(data / "mqtt", broker["password"])
            lines.append(f"password_file = {json.dumps(str(secret))}")
    return "\n".join(lines) + "\n"


def token(data: Path, options: dict[str, Any]) -> str:
    """The token of the options, or one that is made once."""
    if options.get("token"):
        return str(options["token"])
    there = data / "token"
    return there.read_text().strip() if there.exists() else secrets.token_urlsafe(24)


def keep(path: Path, text: str) -> Path:
    """Write a file that only its owner reads."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def broker_of(supervisor: str, key: str) -> dict[str, Any] | None:
    """What Home Assistant says of its MQTT broker, None if it has none."""
    head = {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{supervisor}/services/mqtt", headers=head)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"no MQTT broker: {error}", file=sys.stderr, flush=True)
        return None
    return dict(found["data"]) if found.get("result") == "ok" else None


def main() -> None:
    """Write the settings and become the service."""
    data = Path(os.environ.get("EDGEFACE_HOME", "/data"))
    options = json.loads((data / "options.json").read_text())
    key = os.environ.get("SUPERVISOR_TOKEN", "")
    broker = broker_of(os.environ.get("SUPERVISOR", SUPERVISOR), key) if key else None
    file = keep(data / "edgeface.toml", settings(data, options, broker))
    os.execvp("edgeface", ["edgeface", "serve", str(file)])


if __name__ == "__main__":
    main()
