"""A service in this process: real uvicorn on a port of its own, over real files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from edgeface.serve.app import application
from edgeface.serve.guard import Access
from edgeface.serve.service import Service

TOKEN, READ = "admin-" + "a" * 20, "reader-" + "r" * 20


@contextmanager
def serving(service: Service, names: tuple[str, ...] = ()) -> Iterator[httpx.Client]:
    """A client of the service with the token of scope admin."""
    app = application(service, Access(TOKEN, READ, names))
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        ) as client:
            yield client
    finally:
        service.feed.ended = True
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
