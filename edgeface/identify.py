"""The composition: frames in, events out. The only module that knows the order of the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np

from edgeface import images, video
from edgeface.aggregate import Aggregator, Evidence, Policy
from edgeface.align import align
from edgeface.decide import Confirmation, Rules, decide_together
from edgeface.detect import Detector
from edgeface.embed import DEFAULT, Embedder
from edgeface.errors import ImageError
from edgeface.gallery import Gallery, Person
from edgeface.models import load_card
from edgeface.quality import rate
from edgeface.runtime import Runtime
from edgeface.track import SceneCut, State, Track, Tracker, TrackerOptions
from edgeface.types import (
    Array,
    Decision,
    Event,
    EventKind,
    Face,
    Frame,
    Image,
    Match,
    Sighting,
    Status,
    Threshold,
)

FacePolicy = Literal["require_one", "largest", "skip"]
WEAK = 0.5  # share of the detector's threshold from which a face may keep a track alive


class FaceDetector(Protocol):
    """What the composition needs of a detector."""

    def __call__(self, image: Image) -> list[Face]: ...


class FaceEmbedder(Protocol):
    """What the composition needs of an embedder."""

    @property
    def size(self) -> int: ...

    def __call__(self, crops: Image) -> Array: ...


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an enrolment did: the `person`, how many faces were `added`, which sources were not and
    why, as (source, reason)."""

    person: Person
    added: int
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """Two pictures compared: raw cosine `similarity`, the `threshold`, whether it is the `same`."""

    similarity: float
    threshold: Threshold
    same: bool


@dataclass(slots=True, eq=False)
class _Dossier:
    """What is known about one track, and what was already told."""

    evidence: Evidence
    confirmation: Confirmation
    decision: Decision
    matches: list[Match]
    announced: bool = False
    named: str | None = None


class Identifier:
    """Says who is in front of a camera. One object per source; not thread-safe."""

    def __init__(
        self,
        detector: FaceDetector,
        embedder: FaceEmbedder,
        gallery: Gallery,
        *,
        threshold: Threshold,
        rules: Rules | None = None,
        policy: Policy | None = None,
        tracking: TrackerOptions | None = None,
    ) -> None:
        self.gallery = gallery
        self.threshold = threshold
        self._detector, self._embedder = detector, embedder
        self._rules, self._policy = rules or Rules(), policy or Policy()
        self._tracking = tracking or TrackerOptions()
        self._aggregator = Aggregator(embedder.size)
        self.reset()

    @classmethod
    def open(
        cls,
        gallery: str | Path,
        *,
        embedder: str | Path = DEFAULT,
        detector: str | Path = "detector",
        runtime: Runtime = "auto",
        threads: int = 2,
        threshold: float | None = None,
    ) -> Self:
        """A ready identifier over a gallery file, which is created when missing.

        The threshold is, in this order: the one given, the gallery's calibrated one, the default of
        the embedder's card.

        Raises:
            GalleryError: the file is no gallery, damaged, or was made with another model.
            ModelError: a model is unknown or damaged.
        """
        embed = Embedder.load(embedder, runtime=runtime, threads=threads)
        store = Gallery.open(gallery, model=embed.card.digest, size=embed.size)
        chosen = store.threshold or embed.card.threshold
        if threshold is not None:
            chosen = Threshold(threshold, "user")
        # The tracker's second stage wants the faces the detector is less sure of, too.
        sure = load_card(detector, "detection").threshold.value
        find = Detector.load(
            detector, runtime=runtime, threads=threads, score_threshold=sure * WEAK
        )
        tracking = TrackerOptions(high=sure, low=sure * WEAK, rejoin=chosen.value)
        return cls(find, embed, store, threshold=chosen, tracking=tracking)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.gallery.close()

    # Single pictures ---------------------------------------------------------------------------

    def faces(self, picture: images.Source) -> list[Face]:
        """Every face of a picture with quality and embedding, largest first."""
        image = images.read(picture)
        found = [f for f in self._detector(image) if f.score >= self._tracking.high]
        faces = self._described(image, found)
        return sorted(faces, key=lambda f: -float(np.prod(f.box[2:] - f.box[:2])))

    def identify(self, picture: images.Source) -> list[Sighting]:
        """Who is in a picture: one sighting per face, largest first, nobody named twice."""
        faces = self.faces(picture)
        matches = [self.gallery.search(f.embedding) for f in faces if f.embedding is not None]
        decisions = decide_together(matches, self.threshold, margin=self._rules.margin)
        return [Sighting(f, d) for f, d in zip(faces, decisions, strict=True)]

    def verify(self, a: images.Source, b: images.Source) -> Verification:
        """Whether the largest faces of two pictures are the same person.

        Raises:
            ImageError: a picture is unreadable or shows no face.
        """
        first, second = (self._one_face(p, "largest").embedding for p in (a, b))
        assert first is not None and second is not None
        similarity = float(first @ second)
        return Verification(similarity, self.threshold, similarity >= self.threshold.value)

    def enroll(
        self, name: str, pictures: Sequence[images.Source], *, policy: FacePolicy = "require_one"
    ) -> Enrolment:
        """Add pictures of one person to the gallery, all or none.

        Args:
            name: any script; an existing name gains samples.
            pictures: paths, encoded bytes or arrays.
            policy: `require_one` face per picture, take the `largest`, or `skip` unfit pictures.

        Raises:
            ImageError: a picture is unreadable or has no face or, under `require_one`, several;
                or none is left under `skip`.
            GalleryError: the name is not acceptable.
        """
        taken: list[Face] = []
        sources: list[str] = []
        skipped: list[tuple[str, str]] = []
        for index, picture in enumerate(pictures):
            label = _label(picture, index)
            try:
                taken.append(self._one_face(picture, policy))
                sources.append(label)
            except ImageError as error:
                if policy != "skip":
                    raise
                skipped.append((label, str(error)))
        if not taken:
            reasons = "; ".join(reason for _, reason in skipped) or "no picture was given"
            raise ImageError(f"nothing to enrol for {name!r}: {reasons}")
        embeddings = np.stack([f.embedding for f in taken if f.embedding is not None])
        qualities = [f.quality for f in taken]
        person = self.gallery.enroll(name, embeddings, qualities=qualities, sources=sources)
        return Enrolment(person, len(taken), tuple(skipped))

    def _one_face(self, picture: images.Source, policy: FacePolicy) -> Face:
        faces = self.faces(picture)
        label = _label(picture, None)
        if not faces:
            raise ImageError(
                f"no face found in {label}; use a sharp frontal picture, the face 60 pixels or more"
            )
        if len(faces) > 1 and policy != "largest":
            raise ImageError(
                f"{len(faces)} faces in {label}, one is needed; crop the picture, or take the "
                "largest with --faces largest"
            )
        return faces[0]

    # Video -------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all tracks, as at the start of another source."""
        self._tracker = Tracker(self._tracking)
        self._cut = SceneCut()
        self._dossiers: dict[int, _Dossier] = {}
        self._sightings: list[Sighting] = []

    @property
    def sightings(self) -> list[Sighting]:
        """Confirmed tracks of the last frame with the decision each shows, for overlays."""
        return self._sightings

    def watch(
        self,
        source: str | int | Path,
        *,
        every: int = 1,
        live: video.LiveOptions | None = None,
        on_frame: Callable[[Frame, list[Sighting]], None] | None = None,
    ) -> Iterator[Event]:
        """Iterate the events of a source until it ends.

        Args:
            source: see `video.frames`.
            every: process each n-th frame only.
            live: how live sources are watched.
            on_frame: called after each processed frame with the frame and its sightings.
        """
        self.reset()
        frame = None
        for frame in video.frames(source, live=live):
            if frame.index % every == 0:
                yield from self.step(frame)
                if on_frame is not None:
                    on_frame(frame, self._sightings)
        if frame is not None:
            yield from self.finish(frame)

    def step(self, frame: Frame) -> list[Event]:
        """Process one frame of a loop the caller owns; times must not decrease."""
        image = images.check(frame.image)
        if self._cut(image):
            self._tracker.cut()
        faces = self._detector(image)
        tracks = self._tracker.update(faces, frame.time, lambda f: self._embed(image, f))
        seen, fresh = self._gather(image, tracks, frame.time)
        self._judge(seen, fresh)
        shown = [t for t in seen if t.state is State.CONFIRMED]
        self._sightings = [Sighting(t.face, self._dossiers[t.id].decision, t.id) for t in shown]
        gone = [t for t in tracks if t.state is State.REMOVED]
        return [e for t in shown for e in self._news(t, frame)] + self._farewells(gone, frame)

    def finish(self, frame: Frame) -> list[Event]:
        """The events that end all tracks, as when the source has ended with `frame`."""
        events = self._farewells(self._tracker.update([], float("inf")), frame)
        self.reset()
        return events

    def _gather(
        self, image: Image, tracks: list[Track], time: float
    ) -> tuple[list[Track], set[int]]:
        """Embed the faces worth it; returns the tracks seen now, under new ids where one changed
        hands, and the ids that have new evidence."""
        seen = [t for t in tracks if t.last_seen == time]
        due = [t for t in seen if not t.weak and self._dossier(t.id).evidence.due(time)]
        crops = align(image, [t.face for t in due])
        rated = [rate(t.face, c, image.shape[:2]) for t, c in zip(due, crops, strict=True)]
        keep = [i for i, q in enumerate(rated) if self._dossier(due[i].id).evidence.accepts(q)]
        fresh = set()
        for i, row in zip(keep, self._embedder(crops[keep]), strict=True):
            track, dossier = due[i], self._dossier(due[i].id)
            added = dossier.evidence.add(row, rated[i], time)
            if dossier.evidence.changed_hands:
                track = replace(track, id=self._tracker.split(track.id), first_seen=time)
                seen = [track if t.id == due[i].id else t for t in seen]
                dossier = self._dossier(track.id)
                added = dossier.evidence.add(row, rated[i], time)
            if added:
                template = dossier.evidence.template()
                self._tracker.remember(track.id, template.embedding)
                dossier.matches = self.gallery.search(template.embedding)
                fresh.add(track.id)
        return seen, fresh

    def _judge(self, seen: list[Track], fresh: set[int]) -> None:
        """Decide for all faces of the frame together; only new evidence confirms a name."""
        known = [(t, d) for t in seen if (d := self._dossier(t.id)).evidence.template().weight > 0]
        rows = [d.matches for _, d in known]
        raw = decide_together(rows, self.threshold, margin=self._rules.margin)
        for (track, dossier), decision in zip(known, raw, strict=True):
            if track.id in fresh or decision.person_id != dossier.decision.person_id:
                dossier.decision = dossier.confirmation.update(decision)

    def _dossier(self, track: int) -> _Dossier:
        if track not in self._dossiers:
            nothing = float("nan")
            self._dossiers[track] = _Dossier(
                Evidence(self._aggregator, self._policy),
                Confirmation(self._rules),
                Decision(Status.LOW_QUALITY, None, None, nothing, nothing, self.threshold),
                [],
            )
        return self._dossiers[track]

    def _news(self, track: Track, frame: Frame) -> list[Event]:
        dossier = self._dossiers[track.id]
        kinds = [] if dossier.announced else [EventKind.SEEN]
        name = dossier.decision.name
        if name != dossier.named:
            kinds.append(EventKind.IDENTIFIED if dossier.named is None else EventKind.CHANGED)
        dossier.announced, dossier.named = True, name
        time, box = frame.time, track.face.box
        return [Event(k, track.id, time, frame.index, box, dossier.decision) for k in kinds]

    def _farewells(self, gone: list[Track], frame: Frame) -> list[Event]:
        events = []
        for t in gone:
            dossier = self._dossiers.pop(t.id, None)
            if dossier is not None and dossier.announced:
                decision = dossier.decision
                events.append(
                    Event(EventKind.LOST, t.id, t.last_seen, frame.index, t.face.box, decision)
                )
        return events

    def _embed(self, image: Image, faces: Sequence[Face]) -> Array:
        return self._embedder(align(image, faces))

    def _described(self, image: Image, faces: Sequence[Face]) -> list[Face]:
        crops = align(image, faces)
        return [
            replace(f, quality=rate(f, c, image.shape[:2]), embedding=row)
            for f, c, row in zip(faces, crops, self._embedder(crops), strict=True)
        ]


def _label(picture: images.Source, index: int | None) -> str:
    if isinstance(picture, bytes | np.ndarray):
        return "the picture" if index is None else f"picture {index + 1}"
    return str(picture)
