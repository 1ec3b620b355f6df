"""A service in this process: real uvicorn on a port of its own, over real files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp

from edgeface.describe import Describer
from edgeface.gallery import Gallery
from edgeface.serve.access import Access
from edgeface.serve.app import application
from edgeface.serve.config import ServiceSettings
from edgeface.serve.service import Service
from edgeface.sightings import Sightings

TOKEN, READ = "admin-" + "a" * 20, "reader-" + "r" * 20


@contextmanager
def filed(folder: Path, describer: Describer) -> Iterator[Service]:
    """A service that runs over a gallery and sightings in a folder."""
    path, card = folder / "g.gallery", describer.embedder.card
    with (
        Gallery.open(path, model=card.digest, size=card.size) as gallery,
        Sightings.open(gallery) as store,
    ):
        made = Service(ServiceSettings(str(path)), describer, gallery, store)
        made.start()
        yield made
        made.close()


@contextmanager
def listening(service: Service, app: ASGIApp, port: int = 0) -> Iterator[str]:
    """The address at which an application of the service is served."""
    service.feed.ended = False
    config = uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        service.feed.end()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def serving(service: Service, names: tuple[str, ...] = ()) -> Iterator[httpx.Client]:
    """A client of the service with the token of scope admin."""
    app = application(service, Access(TOKEN, READ, names))
    head = {"Authorization": f"Bearer {TOKEN}"}
    with (
        listening(service, app) as address,
        httpx.Client(base_url=address, headers=head, timeout=30) as client,
    ):
        yield client
