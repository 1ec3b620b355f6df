"""Why a camera does not answer. OpenCV only says that it does not; this asks as a client would."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

_PORTS = {"rtsp": 554, "http": 80}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, as the end of a sentence about the camera; empty where nothing was found.
    `final`: trying again is of no use."""

    text: str = ""
    final: bool = False


def probe(source: int | str, timeout: float) -> Trouble:
    """What stands between us and a camera (by index) or a stream (by URL); at most about
    `timeout` seconds a step."""
    if isinstance(source, int):
        device = Path(f"/dev/video{source}")
        there = device.exists() or not Path("/dev").is_dir()
        state = "cannot be read" if there else f"is not there: no {device}"
        return Trouble(f"{state}; list cameras with: edgeface doctor", True)
    try:
        parts = urlsplit(source)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        return Trouble(f"has an address that cannot be read ({error}); check its spelling", True)
    if not host or not port:
        return Trouble()
    try:
        with socket.create_connection((host, port), timeout) as connection:
            return _ask(connection, source) if parts.scheme in _PORTS else Trouble()
    except OSError as error:
        return Trouble(_unreachable(error, f"{host}:{port}"))


def _unreachable(error: OSError, place: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"cannot be found: no address is known for {place}; check its spelling"
    if isinstance(error, TimeoutError):
        return f"does not answer at {place}; check the address and the network"
    if isinstance(error, ConnectionRefusedError):
        return f"refuses the connection at {place}; check the port and that it is on"
    if error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return f"cannot be reached: no route to {place}; check the network"
    return f"cannot be reached at {place} ({error.strerror or error})"


def _ask(connection: socket.socket, url: str) -> Trouble:
    """Ask for the stream, with the password once it is wanted."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "rtsp":
        method, version = "DESCRIBE", "RTSP/1.0"
        target = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    else:
        method, version = "GET", "HTTP/1.1"
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    start = f"{method} {target} {version}\r\nHost: {parts.hostname}\r\nUser-Agent: edgeface\r\n"
    status, head = _request(connection, f"{start}CSeq: 1\r\n")
    if status == 401 and user and (proof := _proof(head, method, target, user, password)):
        again = f"{start}CSeq: 2\r\nAuthorization: {proof}\r\n"
        place = connection.getpeername()[:2]
        with socket.create_connection(place, connection.gettimeout()) as second:
            status, _ = _request(second, again)
    form = f"{parts.scheme}://USER:PASSWORD@HOST/…"
    wanted = "does not accept this user and password" if user else "wants a user and a password"
    said = {
        401: f"{wanted}; write them as {form}",
        403: "does not allow this user to see the stream",
        404: "has no stream of this name; check what follows the host",
    }
    return Trouble(said[status], True) if status in said else Trouble()


def _request(connection: socket.socket, head: str) -> tuple[int, str]:
    """The status and the head of the answer; (0, "") for none that can be understood."""
    connection.sendall((head + "\r\n").encode("utf-8", "replace"))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 1 << 16:
        more = connection.recv(4096)
        if not more:
            break
        answer += more
    text = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    found = re.match(r"\S+ (\d{3})", text)
    return (int(found.group(1)), text) if found else (0, "")


def _proof(head: str, method: str, target: str, user: str, password: str) -> str:
    """The value of `Authorization` that the answer asks for: Digest (RFC 2617) or Basic."""
    asked = re.findall(r"(?im)^WWW-Authenticate:\s*(\w+)\s*(.*)$", head)
    offers = {scheme.lower(): rest for scheme, rest in asked}
    if "digest" in offers:
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', offers["digest"]))
        if given.get("algorithm", "MD5").upper() != "MD5":
            return ""
        realm, nonce, once = given.get("realm", ""), given.get("nonce", ""), "65646765"
        middle, extra = nonce, ""
        if "auth" in re.split(r"[\s,]+", given.get("qop", "")):
            middle = f"{nonce}:00000001:{once}:auth"
            extra = f', qop=auth, nc=00000001, cnonce="{once}"'
        first, second = _md5(f"{user}:{realm}:{password}"), _md5(f"{method}:{target}")
        return (
            f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{target}", '
            f'response="{_md5(f"{first}:{middle}:{second}")}"{extra}'
        )
    if "basic" in offers:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return ""


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
