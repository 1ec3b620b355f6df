"""The page of a pile, served to one browser on this machine so that people can be named.

Only this machine reaches the port, only the address with the token opens anything, and only
requests that name this very host are answered: another page in the same browser can neither read
nor change a pile. Every change is on the disk, and in the journal, before it is answered.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from edgeface.closing import Closing
from edgeface.cluster import hand
from edgeface.cluster.changes import Change
from edgeface.cluster.update import Pile
from edgeface.errors import ArgumentError, DataError, EdgefaceError
from edgeface.gallery.records import check_name
from edgeface.piles.folder import FOLDERS, PILE, STORE, place, rows_of, write
from edgeface.piles.report import document, page
from edgeface.piles.store import Store

LONGEST = 1_000_000  # bytes of a request
TYPES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp"}  # what browsers show


class PileServer(Closing):
    """Serves the result below `output` on a port of its own; use it as a context.

    `address` is what the browser opens; who has it can name, merge and split people.
    """

    def __init__(self, output: str | Path, *, port: int = 0) -> None:
        """DataError if there is no result below `output`."""
        self.output = Path(output).resolve()
        if not (self.output / PILE).exists() or not (self.output / STORE).exists():
            raise DataError(f"{self.output}: no clustering is there; cluster a folder first")
        self._lock = Lock()
        self._store = Store(self.output / STORE)
        self._pile = Pile.load(self.output / PILE)
        self._result = rows_of(self._store, self._pile)
        self.token = secrets.token_urlsafe(24)
        handler = type("PileHandler", (_Handler,), {"pile": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True

    @property
    def host(self) -> str:
        """Host and port, as a browser names them."""
        return f"127.0.0.1:{self._http.server_address[1]}"

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self.host}/{self.token}/"

    def serve_forever(self) -> None:
        """Answer until `stop` is called from another thread."""
        self._http.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        """End `serve_forever`."""
        self._http.shutdown()

    def close(self) -> None:
        """Let go of the port and of the pile, in which everything done is kept."""
        self._http.server_close()
        self._store.close()

    # What the page asks for

    def page(self, nonce: str) -> str:
        """The page as it is now."""
        with self._lock:
            data = document(self._result.rows, self._result.embeddings, shown=None)
        faces = [*data["unfit"]["faces"], *(f for p in data["people"] for f in p["faces"])]
        for face in faces:
            del face["file"]
            face["link"], face["crop"] = f"picture/{face['number']}", f"crop/{face['number']}"
        return page(data | {"editable": True}, nonce=nonce)

    def crop(self, face: int) -> bytes | None:
        """The small JPEG of a face."""
        with self._lock:
            return self._store.crop(face)

    def picture(self, face: int) -> Path | None:
        """The picture of a face."""
        with self._lock:
            files = [row.file for row in self._result.rows if row.number == face]
        return next((f for f in files if f.is_file()), None)

    # What the page changes

    def name(self, body: dict[str, Any]) -> None:
        """Call a person something: {"person": id, "name": text}."""
        person, name = _number(body, "person"), check_name(str(body.get("name", "")))
        holder = next((p for p, n in self._store.names().items() if n == name), person)
        if holder != person:
            raise ArgumentError(f"{name!r} is somebody else already; say that they are the same")
        pile, change = hand.name(self._pile, person, name)
        self._store.name(person, name)
        self._take(pile, change)

    def merge(self, body: dict[str, Any]) -> None:
        """Two people are one: {"into": id, "other": id}. If both have a name, `into`'s stays."""
        into, other = _number(body, "into"), _number(body, "other")
        pile, change = hand.merge(self._pile, into, other)
        names = self._store.names()
        self._store.drop_people([other])
        if other in names and into not in names:
            self._store.name(into, names[other])
        self._take(pile, change)

    def split(self, body: dict[str, Any]) -> None:
        """Some faces of a person are somebody else: {"faces": [numbers]}."""
        given = body.get("faces")
        faces = given if isinstance(given, list) else []
        pile, change = hand.split(self._pile, {str(face) for face in faces})
        self._take(pile, change)

    def _take(self, pile: Pile, change: Change) -> None:
        self._pile = pile
        self._result = write(self.output, self._store, pile, [change], append=True)
        if (self.output / FOLDERS).is_dir() and self._store.entries():
            place(self.output, self._store, self._result, how=_how(self.output / FOLDERS))
        self._store.commit()

    def change(self, action: str, body: dict[str, Any]) -> None:
        """Do one of the changes; EdgefaceError when it cannot be."""
        actions: dict[str, Callable[[dict[str, Any]], None]] = {
            "name": self.name,
            "merge": self.merge,
            "split": self.split,
        }
        if action not in actions:
            raise ArgumentError(f"{action!r} is none of name, merge and split")
        with self._lock:
            actions[action](body)


class _Handler(BaseHTTPRequestHandler):
    """Answers the browser."""

    pile: PileServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        what = self._asked()
        if what is None:
            return
        kind, _, number = what.partition("/")
        if not what:
            nonce = secrets.token_urlsafe(16)
            self._send(200, self.pile.page(nonce).encode(), "text/html; charset=utf-8", nonce=nonce)
            return
        if kind == "crop" and number.isdecimal():
            data = self.pile.crop(int(number))
            if data is not None:
                self._send(200, data, "image/jpeg")
                return
        if kind == "picture" and number.isdecimal():
            file = self.pile.picture(int(number))
            if file is not None and file.suffix.lower() in TYPES:
                suffix = {".jpg": "jpeg", ".jfif": "jpeg"}.get(file.suffix.lower())
                kind = f"image/{suffix or file.suffix.lower()[1:]}"
                try:
                    self._send(200, file.read_bytes(), kind)
                    return
                except OSError:
                    pass
        self._refuse(404, "there is no such thing here")

    def do_POST(self) -> None:
        what = self._asked()
        if what is None:
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            self._refuse(413, f"a request of at most {LONGEST} bytes is needed")
            return
        # Other pages can send forms but not JSON, and browsers say where a request comes from.
        origin = self.headers.get("Origin")
        if self.headers.get_content_type() != "application/json" or origin not in {
            None,
            f"http://{self.pile.host}",
        }:
            self._refuse(403, "a request in JSON from the page itself is needed")
            return
        try:
            body = json.loads(self.rfile.read(int(length)))
            if not isinstance(body, dict):
                raise ArgumentError("a request is a JSON object")
            self.pile.change(what, body)
        except (EdgefaceError, ValueError, RecursionError) as error:
            self._refuse(400, str(error))
            return
        self._send(204, b"", "text/plain")

    def _asked(self) -> str | None:
        """What follows the token in the path; None when the request was refused."""
        if self.headers.get("Host") != self.pile.host:
            self._refuse(403, "this address is not served here")
            return None
        _, token, *rest = [*self.path.split("?")[0].split("/", 2), ""]
        if not secrets.compare_digest(token.encode(), self.pile.token.encode()):
            self._refuse(403, "open the address that edgeface printed")
            return None
        return rest[0]

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True
        self._send(status, text.encode("utf-8", "backslashreplace"), "text/plain; charset=utf-8")

    def _send(self, status: int, data: bytes, kind: str, *, nonce: str = "") -> None:
        self.send_response(HTTPStatus(status))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        scripts = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; " if nonce else ""
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; {scripts}img-src 'self' data:; connect-src 'self'; "
            "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
        )
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: every line would hold the token."""


def _number(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentError(f"{key} is {value!r}; the number of a person is needed")
    return value


def _how(root: Path) -> Any:
    """Whether the folders hold links or copies."""
    return "link" if any(e.is_symlink() for d in root.iterdir() for e in d.iterdir()) else "copy"
