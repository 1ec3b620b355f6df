"""The settings of the service: a TOML file, then `EDGEFACE_*`, then options of the command line."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeface.cameras import CameraSpec
from edgeface.errors import ArgumentError
from edgeface.sightings import Expiry
from edgeface.wires import FrigateOptions, MqttOptions, WebhookOptions
from edgeface.wires.frigate import address
from edgeface.wires.tables import frigate_of, mqtt_of, webhook_of

PORT = 8377
DIALECTS = ("compreface", "deepstack")  # see edgeface.serve.dialects
LONGEST_SECRET = 4096  # bytes of a file that holds a token
SHORTEST_TOKEN = 16  # characters
NO_GALLERY = "no gallery: name one in the settings, as `gallery`, or in EDGEFACE_GALLERY"


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What is served, to whom, and for how long things are kept."""

    gallery: str
    data: Path | None = None  # of its own files, sightings too; None: beside the gallery
    host: str = "127.0.0.1"  # the address listened on
    port: int = PORT  # 0: any that is free
    hosts: tuple[str, ...] = ()  # names (with their port, if not 80 or 443) the page is reached by
    trusted: tuple[str, ...] = ()  # addresses of proxies that let in only who may
    token: str | None = field(default=None, repr=False)  # of scope admin; None: made and kept
    read_token: str | None = field(default=None, repr=False)  # of scope read; None: there is none
    cameras: tuple[CameraSpec, ...] = ()
    model: str = "mobilefacenet"
    threads: int = 2
    threshold: float | None = None
    learn: bool = True  # strangers become numbered people, so that they can be named
    crops: bool = True  # a picture of each appearance is kept
    expiry: Expiry = field(default_factory=Expiry)
    mqtt: MqttOptions | None = field(default=None, repr=False)  # where events are published
    webhooks: tuple[WebhookOptions, ...] = field(default=(), repr=False)  # where they are posted
    frigate: FrigateOptions | None = field(default=None, repr=False)  # whose cameras are watched
    dialects: tuple[str, ...] = ()  # interfaces of other services that are spoken, too

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ArgumentError(f"the port is {self.port}: give 0 to 65535")
        for name in ("token", "read_token"):
            token = getattr(self, name)
            if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
                raise ArgumentError(
                    f"{name} has {len(token)} characters: give {SHORTEST_TOKEN} or more of ASCII, "
                    "such as those of `openssl rand -hex 24`"
                )
        if self.token is not None and self.token == self.read_token:
            raise ArgumentError("token and read_token are the same: a reader could change things")
        if self.token is None and not is_loopback(self.host):
            raise ArgumentError(
                f"{self.host} can be reached from other machines, so a token is needed: set "
                "EDGEFACE_TOKEN_FILE to a file with one, or token_file in the settings"
            )
        if strange := sorted(set(self.dialects) - set(DIALECTS)):
            raise ArgumentError(f"there is no dialect {strange[0][:50]!r}; there are: "
                                f"{', '.join(sorted(DIALECTS))}")  # fmt: skip
        urls = [options.url for options in self.webhooks]
        if len(urls) != len(set(urls)):
            raise ArgumentError("two webhooks have one url: put what they are to get into one")
        names = [spec.name for spec in self.cameras]
        if slashed := [n for n in names if "/" in n]:
            raise ArgumentError(f"a camera is called {slashed[0]!r}: leave out the /")
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ArgumentError(f"two cameras are called {twice[0]!r}: give each its own name")
        for spec in self.cameras:
            address(self.frigate, spec.source)
        if "://" in self.gallery and self.data is None:
            raise ArgumentError(
                "the gallery is on a server: say with `data` (EDGEFACE_DATA) in which folder "
                "the service keeps its own files"
            )

    @property
    def beside(self) -> Path:
        """The path that the service's own files are named after: `.cameras.json`, `.token` and, of
        a gallery that is a file, `.sightings` are put behind it."""
        return beside(self.gallery, self.data)


def beside(gallery: str, data: Path | None) -> Path:
    """See `ServiceSettings.beside`."""
    return Path(gallery) if data is None else data / "edgeface"


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def load(
    file: Path | None, environment: Mapping[str, str], given: Mapping[str, Any]
) -> ServiceSettings:
    """The settings of a file, overruled by the environment, overruled by what was `given` (None:
    not given; its `cameras` are added).

    Raises:
        ArgumentError: an unknown key, a value of the wrong type, a secret that cannot be read, or
            no gallery.
    """
    found = {} if file is None else _of_file(file)
    for key, value in _of_environment(environment).items():
        found[key] = [*found.get(key, []), *value] if key == "cameras" else value
    for key, value in given.items():
        if key == "cameras":
            found[key] = [*found.get(key, []), *value]
        elif value is not None:
            found[key] = value
    for name in ("token", "read_token"):
        path = found.pop(f"{name}_file", None)
        if path is not None and name not in found:
            found[name] = _secret(Path(path))
    if not found.get("gallery"):
        raise ArgumentError(NO_GALLERY)
    specs = list(map(_camera, found.pop("cameras", [])))
    expiry = _expiry(found.pop("expiry", {}))
    if "mqtt" in found:
        found["mqtt"] = mqtt_of(found["mqtt"])
    if "frigate" in found:
        found["frigate"] = frigate_of(found["frigate"])
    found["webhooks"] = tuple(map(webhook_of, found.pop("webhooks", [])))
    return _made(found, tuple(specs), expiry)


def place(
    file: Path | None, environment: Mapping[str, str], gallery: str | None
) -> tuple[str, Path | None]:
    """The gallery that settings name, and the folder of the service's own files if it has one. No
    secret is read: they may be for the service's eyes alone.

    Raises:
        ArgumentError: as for `load`, of what is needed here.
    """
    found = {} if file is None else _of_file(file)
    found |= _of_environment(environment)
    path = gallery or found.get("gallery")
    if not path:
        raise ArgumentError(NO_GALLERY)
    return path, None if found.get("data") is None else Path(found["data"])


_TYPES: dict[str, tuple[type, ...]] = {
    "gallery": (str,), "data": (str, Path), "host": (str,), "port": (int,), "hosts": (list, tuple),
    "trusted": (list, tuple),
    "token": (str,), "token_file": (str, Path),
    "read_token": (str,), "read_token_file": (str, Path),
    "cameras": (list,), "model": (str,), "threads": (int,), "threshold": (float, int),
    "learn": (bool,), "crops": (bool,), "expiry": (dict,),
    "mqtt": (dict,), "webhooks": (list,), "frigate": (dict,),
    "dialects": (list, tuple),
}  # fmt: skip


def _of_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            found = tomllib.load(opened)
    except OSError as error:
        raise ArgumentError(f"the settings {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(f"the settings {file} are no TOML: {error}") from error
    for key, value in found.items():
        if key not in _TYPES:
            raise ArgumentError(f"{file}: there is no setting {key!r}; there are: "
                                f"{', '.join(sorted(_TYPES))}")  # fmt: skip
        wrong_bool = isinstance(value, bool) and bool not in _TYPES[key]
        if wrong_bool or not isinstance(value, _TYPES[key]):
            raise ArgumentError(
                f"{file}: {key} is {value!r}, a {type(value).__name__}; a "
                f"{_TYPES[key][0].__name__} is needed"
            )
    return found


def _of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("gallery", "data", "host", "token", "token_file", "read_token", "read_token_file"):
        if value := environment.get(f"EDGEFACE_{key.upper()}"):
            found[key] = value
    if port := environment.get("EDGEFACE_PORT"):
        if not port.isdecimal():
            raise ArgumentError(f"EDGEFACE_PORT is {port!r}: give a number")
        found["port"] = int(port)
    if hosts := environment.get("EDGEFACE_HOSTS"):
        found["hosts"] = hosts.replace(",", " ").split()
    start = "EDGEFACE_CAMERA_"
    cameras = {
        k.removeprefix(start).lower(): v for k, v in environment.items() if k.startswith(start)
    }
    if cameras:
        found["cameras"] = [{"name": name, "source": v} for name, v in sorted(cameras.items())]
    return found


def _secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_SECRET).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"the token cannot be read from {path}: {error}") from error
    if not text:
        raise ArgumentError(f"the token file {path} is empty: write a token into it")
    return text


def _camera(given: Any) -> CameraSpec:
    if isinstance(given, CameraSpec):
        return given
    known = {f.name for f in fields(CameraSpec)}
    if not isinstance(given, dict) or not {"name", "source"} <= set(given) <= known:
        shown = sorted(given) if isinstance(given, dict) else given
        raise ArgumentError(f"a camera has {shown}; it has name and source, and may have every")
    types = {"name": str, "source": str, "every": int, "repeat": bool}
    for key, value in given.items():
        if type(value) is not types[key]:
            raise ArgumentError(
                f"{key} of a camera is {value!r}: a {types[key].__name__} is needed"
            )
    return CameraSpec(**given)


def _expiry(given: Mapping[str, Any]) -> Expiry:
    known = {f.name for f in fields(Expiry)}
    for key, value in given.items():
        if key not in known:
            raise ArgumentError(f"[expiry] has no {key!r}; it has: {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ArgumentError(f"{key} of [expiry] is {value!r}: a number is needed")
    # 0 days: for ever, as TOML knows no None.
    days: dict[str, Any] = {k: (None if v == 0 and k not in ("per_person", "nobodies") else v)
            for k, v in given.items()}  # fmt: skip
    return replace(Expiry(), **days)


def _made(
    found: dict[str, Any], cameras: tuple[CameraSpec, ...], expiry: Expiry
) -> ServiceSettings:
    if "hosts" in found:
        found["hosts"] = tuple(str(host).lower() for host in found["hosts"])
    found["dialects"] = tuple(map(str, found.get("dialects", ())))
    if "trusted" in found:
        found["trusted"] = tuple(map(str, found["trusted"]))
        if wrong := [proxy for proxy in found["trusted"] if not _is_address(proxy)]:
            raise ArgumentError(f"a trusted proxy is {wrong[0]!r}: give its IP address")
    if found.get("data") is not None:
        found["data"] = Path(found["data"])
    return ServiceSettings(cameras=cameras, expiry=expiry, **found)
