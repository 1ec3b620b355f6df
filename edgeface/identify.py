"""The composition for pictures, and the front door: open, enrol, identify, verify, watch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from edgeface import images, video
from edgeface.aggregate import Policy
from edgeface.alignment import align
from edgeface.calibrate import Calibration, calibrate
from edgeface.cohort import Progress
from edgeface.decide import Rules, decide_together
from edgeface.detect import MAX_SIDE, SURE, Detector
from edgeface.embed import DEFAULT, Embedder
from edgeface.errors import ArgumentError, ImageError, SourceError
from edgeface.follow import FaceDetector, FaceEmbedder, Follower, ask_bank, complete
from edgeface.gallery import Gallery, Growth, Kind, Person
from edgeface.plot import Curve
from edgeface.quality import rate
from edgeface.runtime import Runtime
from edgeface.sinks import Sink, Sinks
from edgeface.submodels import SubmodelBank
from edgeface.thresholds import CALIBRATION, Linking, ThresholdProvider
from edgeface.trace import Trace
from edgeface.track import TrackerOptions
from edgeface.types import Event, Face, Frame, Image, Sighting, Threshold

FacePolicy = Literal["require_one", "largest", "skip"]
# Detector score from which a face counts; what lies between the card's threshold and this only
# keeps tracks alive. Precision equals recall here (`detect.dev.break_even` of `bench detect`).
CONFIDENT = 0.5


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


def tracking_for(detector: Detector, embedder: FaceEmbedder) -> TrackerOptions:
    """How faces of a detector are tracked, told apart by an embedder."""
    return TrackerOptions(
        high=max(CONFIDENT, detector.score_threshold),
        low=detector.score_threshold,
        rejoin=embedder.card.threshold.value,
    )


class Identifier:
    """Says who is in front of a camera. One object per source; not thread-safe."""

    def __init__(
        self,
        detector: FaceDetector,
        embedder: FaceEmbedder,
        gallery: Gallery,
        *,
        threshold: Threshold | None = None,
        rules: Rules | None = None,
        policy: Policy | None = None,
        tracking: TrackerOptions | None = None,
        learn: bool = False,
        bank: SubmodelBank | None = None,
    ) -> None:
        self.gallery = gallery
        self._thresholds = ThresholdProvider(gallery, embedder.card, threshold)
        self._detector, self._embedder = detector, embedder
        self._rules, self._policy = rules or Rules(), policy or Policy()
        self._tracking = tracking or TrackerOptions()
        self._learn = learn
        self._bank = None
        if bank is not None:
            self._bank = bank.with_threshold(self._thresholds.of_bank(bank))
        self._follower: Follower | None = None
        self._next_track = 1

    @classmethod
    def open(
        cls,
        gallery: str | Path,
        *,
        embedder: str | Path = DEFAULT,
        detector: str | Path = "detector",
        runtime: Runtime = "auto",
        threads: int = 2,
        max_side: int = MAX_SIDE,
        threshold: float | None = None,
        learn: bool = False,
        submodels: str | Path | None = None,
    ) -> Self:
        """A ready identifier over a gallery file, which is created when missing.

        The threshold is the one given, else the gallery's, else the model's, and the last two
        follow the gallery as it grows, see `thresholds.ThresholdProvider`.

        Args:
            gallery: the file.
            embedder, detector: model names or files.
            runtime, threads: of both networks.
            max_side: px to which larger pictures and frames are scaled down before detection; twice
                as much finds faces half as large and takes four times as long.
            threshold: least cosine of a match, in the gallery and in the submodel bank.
            learn: let the gallery grow from video, see `gallery.Growth`.
            submodels: a `SubmodelBank` file that is asked about faces the gallery does not know. A
                bank without a calibrated threshold is given the card's for its number of classes.

        Raises:
            GalleryError: the file is no gallery, damaged, or was made with another model.
            ModelError: a model is unknown or damaged.
            BankError: the bank is damaged or of another model.
        """
        embed = Embedder.load(embedder, runtime=runtime, threads=threads)
        bank = None
        if submodels is not None:
            bank = SubmodelBank.load(submodels, embedder=embed.card.digest)
        store = Gallery.open(gallery, model=embed.card.digest, size=embed.size)
        fixed = None if threshold is None else Threshold(threshold, "user")
        find = Detector.load(detector, runtime=runtime, threads=threads, max_side=max_side)
        return cls(
            find,
            embed,
            store,
            threshold=fixed,
            tracking=tracking_for(find, embed),
            learn=learn,
            bank=bank,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.gallery.close()

    @property
    def threshold(self) -> Threshold:
        """The threshold of known people for the gallery as it is now, and where it came from."""
        return self._thresholds().known

    @property
    def linking(self) -> Linking | None:
        """See `thresholds.ThresholdProvider.linking`."""
        return self._thresholds.linking

    # Single pictures ---------------------------------------------------------------------------

    def faces(self, picture: images.Source) -> list[Face]:
        """Every face of a picture with quality, pose and embedding, largest first; what is no face
        on a closer look is left out."""
        image = images.read(picture)
        found = [f for f in self._detector.search(image) if f.score >= self._tracking.high]
        faces = self._described(image, found)
        return sorted(faces, key=lambda f: -float(np.prod(f.box[2:] - f.box[:2])))

    def identify(self, picture: images.Source) -> list[Sighting]:
        """Who is in a picture: one sighting per face, largest first, nobody named twice."""
        faces = self.faces(picture)
        matches = [self.gallery.search(f.embedding) for f in faces if f.embedding is not None]
        limits = self._thresholds()
        decisions = decide_together(
            matches, limits.known, stranger=limits.stranger, margin=self._rules.margin
        )
        rows = [f.embedding for f in faces if f.embedding is not None]
        decisions = complete(decisions, [ask_bank(self._bank, row) for row in rows])
        return [Sighting(f, d) for f, d in zip(faces, decisions, strict=True)]

    def verify(self, a: images.Source, b: images.Source) -> Verification:
        """Whether the largest sure faces of two pictures are the same person.

        Raises:
            ImageError: a picture is unreadable or shows no face.
        """
        first, second = (self._one_face(p, "largest").embedding for p in (a, b))
        assert first is not None and second is not None
        similarity, threshold = float(first @ second), self.threshold
        return Verification(similarity, threshold, similarity >= threshold.value)

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

    def calibrate(
        self,
        cohort: Sequence[images.Source] | None = None,
        *,
        fpir: float,
        progress: Progress | None = None,
    ) -> Calibration:
        """Set the gallery's threshold so that a stranger is named with probability `fpir`.

        Args:
            cohort: one picture each of people who are not in the gallery; the largest face counts.
                Without it a model of strangers stands in (`edgeface.cohort`): it errs on the safe
                side, states by how much it may be off, and never goes below the card's threshold.
            fpir: false-positive identification rate wanted (ISO/IEC 19795-1), in (0, 1).
            progress: told how many pictures or people are done, and of how many.

        Returns:
            the calibration; it is stored with the gallery, and follows its size from then on.

        Raises:
            CalibrationError: the gallery is empty, the cohort smaller than three over `fpir`, or
                without a cohort there is no model beside the embedder or it knows of no rate as
                small as `fpir`.
            ImageError: a picture is unreadable or shows no face.
        """
        if cohort is None:
            result = self._thresholds.modelled(fpir, progress)
        else:
            best = []
            for done, picture in enumerate(cohort, 1):
                row = self._one_face(picture, "largest").embedding
                assert row is not None
                best += [m.similarity for m in self.gallery.search(row, 1, kind=Kind.KNOWN)]
                if progress is not None:
                    progress(done, len(cohort))
            result = calibrate(best, fpir=fpir, size=self.gallery.count(Kind.KNOWN))
        self.gallery.write_note(CALIBRATION, result.to_json())
        return result

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
        # A leg, a dress or a lens taken for a face is often larger than the face.
        sure = [f for f in faces if f.score >= SURE]
        return sure[0] if sure else max(faces, key=lambda f: f.score)

    # Video -------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all tracks, as at the start of another source. Their ids do not return."""
        if self._follower is not None:
            self._next_track = self._follower.next_track
        self._follower = None

    def _following(self) -> Follower:
        if self._follower is None:
            self._follower = Follower(
                self._detector,
                self._embedder,
                self.gallery,
                thresholds=self._thresholds,
                rules=self._rules,
                policy=self._policy,
                tracking=self._tracking,
                growth=Growth(self.gallery, linking=self._link) if self._learn else None,
                bank=self._bank,
                first_track=self._next_track,
            )
        return self._follower

    def _link(self, strangers: int) -> float:
        return self._thresholds().stranger.value

    @property
    def sightings(self) -> list[Sighting]:
        """Confirmed tracks of the last frame with the decision each shows, for overlays."""
        return [] if self._follower is None else self._follower.sightings

    def step(self, frame: Frame) -> list[Event]:
        """Process one frame of a loop the caller owns; times must not decrease."""
        return self._following().step(frame)

    def finish(self, frame: Frame | None = None) -> list[Event]:
        """The events that end all tracks, as when the source has ended. Each tells of the last
        frame that its track was seen in, so `frame`, the last of all, need not be given."""
        return self._following().finish()

    def watch(
        self,
        source: str | int | Path,
        *,
        name: str | None = None,
        every: int = 1,
        live: video.LiveOptions | None = None,
        on_frame: Callable[[Frame, list[Sighting]], None] | None = None,
        trace: Trace | None = None,
        sinks: Iterable[Sink] = (),
        should_stop: Callable[[], bool] | None = None,
    ) -> Generator[Event]:
        """Iterate the events of a source until it ends.

        However it ends, every track is `lost` and the source is closed: after `should_stop` and
        after an error of the source the `lost` events still come; after a `break` out of the loop
        and after `close()` only the sinks get them.

        Args:
            source: see `video.frames`.
            name: what events call the camera; default the source, without its password.
            every: process each n-th frame only.
            live: how live sources are watched.
            on_frame: called after each processed frame with the frame and its sightings.
            trace: gathers what every track was made of, see `explain`.
            sinks: get every event before it is yielded, and every processed frame. What a sink
                raises is logged and does not end the watch. Who made a sink closes it.
            should_stop: asked between frames and while a live source is silent; `stopping.Stop`
                is one that says yes after Ctrl-C or SIGTERM.
        """
        if every < 1:
            raise ArgumentError(f"every is {every}: process each n-th frame, n 1 or more")
        self.reset()
        follower = self._following()
        follower.trace = trace
        frames = video.frames(source, name=name, live=live, should_stop=should_stop)
        return _watch(follower, frames, every, on_frame, Sinks(sinks))

    def explain(self, trace: Trace) -> list[Curve]:
        """Per track, how similar its faces and its template were to the person it resembles most;
        `edgeface.plot.plot` draws it."""
        aggregator = self._following().aggregator
        return trace.curves(self.gallery, aggregator, self.threshold.value)

    def _described(self, image: Image, faces: Sequence[Face]) -> list[Face]:
        crops = align(image, faces)
        return [
            replace(f, quality=rate(f, c, image.shape[:2]), embedding=row)
            for f, c, row in zip(faces, crops, self._embedder(crops), strict=True)
        ]


def _watch(
    follower: Follower,
    frames: Generator[Frame],
    every: int,
    on_frame: Callable[[Frame, list[Sighting]], None] | None,
    sinks: Sinks,
) -> Generator[Event]:
    failure: SourceError | ImageError | None = None
    try:
        for frame in frames:
            if frame.index % every:
                continue
            for event in follower.step(frame):
                sinks.publish(event)
                yield event
            sinks.show(frame, follower.sightings)
            if on_frame is not None:
                on_frame(frame, follower.sightings)
    except (SourceError, ImageError) as error:
        failure = error
    finally:
        frames.close()
        farewells = follower.finish()
        for event in farewells:
            sinks.publish(event)
    yield from farewells
    if failure is not None:
        raise failure


def _label(picture: images.Source, index: int | None) -> str:
    if isinstance(picture, bytes | np.ndarray):
        return "the picture" if index is None else f"picture {index + 1}"
    return str(picture)
