"""A service to be killed: it logs events as fast as it can, and serves them. Arguments: the gallery
and the port. It prints a line once it answers."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
from serving import READ, TOKEN

from edgeface.describe import Describer
from edgeface.gallery import Gallery
from edgeface.models import InputSpec, ModelCard
from edgeface.serve.app import application
from edgeface.serve.config import ServiceSettings
from edgeface.serve.guard import Access
from edgeface.serve.service import Service
from edgeface.sightings import Sightings
from edgeface.types import Threshold, new_run, timestamp


class Nothing:
    """Stands for models that are never asked."""

    def __init__(self, path: Path) -> None:
        self.size = 3
        limit = Threshold(0.5, "card")
        self.card = ModelCard("toy", "embedding", path, "d" * 64, 3, limit, InputSpec("image"))


def main(path: str, port: str) -> None:
    nothing = Nothing(Path(path))
    with Gallery.open(path, model="toy", size=3) as gallery, Sightings.open(gallery) as store:
        settings = ServiceSettings(path)
        service = Service(settings, Describer(nothing, nothing), gallery, store)  # type: ignore[arg-type]
        app = application(service, Access(TOKEN, READ))
        server = uvicorn.Server(uvicorn.Config(app, port=int(port), log_config=None))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.01)
        print("ready", flush=True)
        run, number = new_run(), 0
        while True:
            number += 1
            about = {"event": "camera_back", "camera": "door", "ts": timestamp(datetime.now(UTC))}
            store.log({"version": 1, "id": f"{run}-{number:08}", **about})


if __name__ == "__main__":
    main(*sys.argv[1:])
