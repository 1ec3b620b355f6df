"""Running the service until it is told to stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from edgeface.errors import OutputError
from edgeface.serve.access import Access
from edgeface.serve.app import application
from edgeface.serve.config import ServiceSettings
from edgeface.serve.notify import READY, STOPPING, Supervisor
from edgeface.serve.service import opened, token_of

GRACE = 5  # seconds that open requests get at the end


class _Server(uvicorn.Server):
    """Ends the streams at the first signal: they have no other end, and would be waited for."""

    on_exit: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._supervisor = Supervisor()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._supervisor.tell(READY)

    async def on_tick(self, counter: int) -> bool:
        """A turn of the loop, ten a second."""
        self._supervisor.live()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as a wish to stop. uvicorn's own would raise them again at the end."""
        before = {n: signal.signal(n, self.handle_exit) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self._supervisor.tell(STOPPING)
        self.on_exit()
        super().handle_exit(sig, frame)


def serve(settings: ServiceSettings, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; then tracks end with `lost` and all files are closed.

    Args:
        settings: what is served.
        ready: called with the link that opens the page, once the port is taken.

    Raises:
        OutputError: the address cannot be listened on.
        EdgefaceError: the gallery, its sightings or a model cannot be opened.
    """
    taken = _listening(settings.host, settings.port)
    with taken:
        token = token_of(settings)
        access = Access(token, settings.read_token, settings.hosts, settings.trusted)
        with opened(settings) as service:
            config = uvicorn.Config(
                application(service, access),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE,
                timeout_keep_alive=30,
                limit_concurrency=200,
                h11_max_incomplete_event_size=1 << 16,
            )
            server = _Server(config)
            server.on_exit = service.feed.end
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # ours says it in one line
            ready(f"{_address(taken)}/?token={access.link}")
            server.run(sockets=[taken])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, place = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, proto)
    except OSError as error:
        raise OutputError(f"{host} is no address to listen on: {error.strerror}") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(place)
        taken.listen(128)
        taken.setblocking(False)
    except OSError as error:
        taken.close()
        raise OutputError(
            f"{host} port {port} cannot be listened on: {error.strerror}; choose another port"
        ) from error
    return taken


def _address(taken: socket.socket) -> str:
    host, port = taken.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
