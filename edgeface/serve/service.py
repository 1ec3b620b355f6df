"""What runs behind the answers: models, gallery, sightings, cameras, opened and closed as one."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from edgeface import __version__
from edgeface.atomic import replacing
from edgeface.cameras import Camera, Cameras, CameraSpec, State
from edgeface.describe import Describer
from edgeface.detect import Detector
from edgeface.embed import Embedder
from edgeface.errors import ArgumentError, EdgefaceError
from edgeface.gallery import Gallery, GrowthRules
from edgeface.identify import Identifier
from edgeface.serve.answers import Refused
from edgeface.serve.config import ServiceSettings
from edgeface.serve.feed import Feed
from edgeface.serve.metrics import Counts
from edgeface.serve.outcomes import Outcomes
from edgeface.serve.preview import Stills
from edgeface.settings import Settings
from edgeface.sightings import Recorder, Sightings
from edgeface.types import Threshold
from edgeface.wires.frigate import address
from edgeface.wires.tables import wires

log = logging.getLogger(__name__)

EXPIRE_EVERY = 3600.0  # seconds
WAITING = 8  # pictures that are looked at or wait for it
CLOSE = 15.0  # seconds that cameras get to end


class Service:
    """Everything that is served. Made with `opened`."""

    def __init__(
        self,
        settings: ServiceSettings,
        describer: Describer,
        gallery: Gallery,
        store: Sightings,
    ) -> None:
        self.settings, self.describer = settings, describer
        self.gallery, self.store = gallery, store
        fixed = None if settings.threshold is None else Threshold(settings.threshold, "user")
        growth = GrowthRules() if settings.learn else None
        options = Settings(growth=growth)
        self.identifier = Identifier(describer, gallery, options, threshold=fixed)
        self.changing = threading.Lock()  # held by who compares a person and then changes them
        self._looking = threading.Lock()
        self._places = threading.BoundedSemaphore(WAITING)
        self.feed = Feed(store)
        self.stills = Stills()
        self.counts = Counts(store)
        self.outcomes = Outcomes(Path(f"{settings.beside}.outcomes.json"), store)
        self.cameras = Cameras(
            describer,
            gallery,
            options,
            threshold=fixed,
            sinks=lambda name: [Recorder(store, crops=settings.crops)],
            tell=store.log,
            together=True,
            address=lambda source: address(settings.frigate, source),
        )
        self.wires = wires(
            store,
            settings.mqtt,
            settings.webhooks,
            settings.frigate,
            cameras=self._up,
            source=self._source,
            beside=settings.beside,
        )
        self.started = datetime.now(UTC)
        self.version = __version__
        self._file = Path(f"{settings.beside}.cameras.json")
        self._lock = threading.Lock()
        self._fixed = {spec.name for spec in settings.cameras}
        self._done = threading.Event()
        self._expiring = threading.Thread(target=self._expire, name="edgeface-expiry", daemon=True)

    def start(self) -> None:
        """Watch the cameras, those of the settings and those added since, and erase what is old."""
        kept = [spec for spec in self._kept() if spec.name not in self._fixed]
        for spec in (*self.settings.cameras, *kept):
            self.cameras.add(spec)
        for wire in self.wires:
            wire.start()
        self._expiring.start()

    def close(self) -> None:
        """End all cameras, so that every track is `lost`, in the log too."""
        self._done.set()
        if hanging := self.cameras.close(CLOSE):
            log.warning("left behind, as their drivers hang: %s", ", ".join(hanging))
        for wire in self.wires:
            wire.close()
        if self._expiring.is_alive():
            self._expiring.join(CLOSE)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """One picture at a time is looked at, as cameras need the processor, too. Those who wait
        hold a thread each, and streams need some as well, so that few may.

        Raises:
            Refused: too many wait.
        """
        if not self._places.acquire(blocking=False):
            raise Refused(503, "busy", f"{WAITING} pictures wait to be looked at: try again later",
                          headers={"Retry-After": "2"})  # fmt: skip
        try:
            with self._looking:
                yield
        finally:
            self._places.release()

    def _up(self) -> dict[str, bool]:
        return {c.spec.name: c.state().state is State.RUNNING for c in self.cameras}

    def _source(self, camera: str) -> str:
        return next((c.spec.source for c in self.cameras if c.spec.name == camera), "")

    def is_gone(self) -> bool:
        """Whether somebody has taken the gallery's file away."""
        return "://" not in self.settings.gallery and not Path(self.settings.gallery).exists()

    # Cameras ---------------------------------------------------------------------------------

    def is_fixed(self, name: str) -> bool:
        """Whether a camera stands in the settings, so that only they change it."""
        return name in self._fixed

    def add_camera(self, spec: CameraSpec) -> Camera:
        """Watch another camera, from now on and after a restart.

        Raises:
            ArgumentError: there is one of this name, or it needs settings that there are not.
        """
        address(self.settings.frigate, spec.source)
        with self._lock:
            self._free(spec.name)
            self._keep([*self._added(), spec])
            return self.cameras.add(spec)

    def change_camera(self, name: str, spec: CameraSpec) -> Camera:
        """Watch a camera in another way, or under another name."""
        address(self.settings.frigate, spec.source)
        with self._lock:
            if spec.name != name:
                self._free(spec.name)
            self._keep([spec if s.name == name else s for s in self._added()])
            self.cameras.remove(name)
            return self.cameras.add(spec)

    def remove_camera(self, name: str) -> None:
        """Watch a camera no more. What it saw stays."""
        with self._lock:
            self._keep([s for s in self._added() if s.name != name])
            self.cameras.remove(name)

    def _free(self, name: str) -> None:
        if name in {camera.spec.name for camera in self.cameras}:
            raise ArgumentError(f"there is a camera {name!r} already: choose another name")

    def _added(self) -> list[CameraSpec]:
        return [c.spec for c in self.cameras if not self.is_fixed(c.spec.name)]

    def _keep(self, specs: list[CameraSpec]) -> None:
        """Write those that are not of the settings; the file has passwords, so it is private."""
        with replacing(self._file) as file:
            file.write(json.dumps([asdict(spec) for spec in specs], indent=1).encode())

    def _kept(self) -> list[CameraSpec]:
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            return [CameraSpec(**row) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.error("the cameras in %s cannot be read (%s); add them again", self._file, error)
            return []

    # Erasing ---------------------------------------------------------------------------------

    def _expire(self) -> None:
        while True:
            try:
                self.store.expire(time.time(), self.settings.expiry)
            except EdgefaceError as error:
                log.error("what is old could not be erased: %s", error)
            if self._done.wait(EXPIRE_EVERY):
                return


def token_of(settings: ServiceSettings) -> str:
    """The token of the settings, or one that is made once and kept beside the gallery, readable by
    its owner only."""
    if settings.token is not None:
        return settings.token
    path = Path(f"{settings.beside}.token")
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if text := path.read_text(encoding="ascii").strip():
                return text
            descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
        token = secrets.token_urlsafe(24)
        with os.fdopen(descriptor, "w") as file:
            file.write(token)
        return token
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"the token cannot be kept in {path}: {error}") from error


@contextmanager
def opened(settings: ServiceSettings) -> Iterator[Service]:
    """A service over the files that the settings name; cameras run inside the block.

    Raises:
        EdgefaceError: a model, the gallery or the sightings cannot be opened.
    """
    with ExitStack() as stack:
        embedder = Embedder.load(settings.model, threads=settings.threads)
        detector = Detector.load(threads=settings.threads)
        gallery = Gallery.open(settings.gallery, model=embedder.card.digest, size=embedder.size)
        stack.callback(gallery.close)
        path = None if "://" in settings.gallery else Path(f"{settings.beside}.sightings")
        store = stack.enter_context(Sightings.open(gallery, path))
        service = Service(settings, Describer(detector, embedder), gallery, store)
        stack.callback(service.close)
        service.start()
        yield service
