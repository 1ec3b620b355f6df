"""The composition for pictures, and the front door: open, enrol, identify, verify, watch."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from edgeface import images, video
from edgeface.answers import ask_bank, complete
from edgeface.calibrate import Calibration, calibrate
from edgeface.cohort import Progress
from edgeface.decide import decide_together
from edgeface.describe import Describer
from edgeface.detect import MAX_SIDE, SURE, Detector
from edgeface.embed import DEFAULT, Embedder
from edgeface.errors import ArgumentError, ImageError, SourceError
from edgeface.follow import Follower
from edgeface.gallery import Gallery, GrowthRules, Kind, Person
from edgeface.plot import Curve
from edgeface.runtime import Runtime
from edgeface.settings import Settings
from edgeface.sinks import Sink, Sinks
from edgeface.submodels import SubmodelBank
from edgeface.thresholds import CALIBRATION, Linking, ThresholdProvider
from edgeface.trace import Trace
from edgeface.types import Event, Face, Frame, Sighting, Threshold

OnBad = Callable[[ImageError], object]
FacePolicy = Literal["require_one", "largest", "skip"]


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


class Identifier:
    """Says who is in front of a camera: a describer, a gallery and settings. One object per source,
    not for two threads at once; several may share a describer and a gallery, each in a thread of
    its own."""

    def __init__(
        self,
        describer: Describer,
        gallery: Gallery,
        settings: Settings | None = None,
        *,
        threshold: Threshold | None = None,
        bank: SubmodelBank | None = None,
    ) -> None:
        """Put one together; `open` does it from files.

        Args:
            describer: finds and embeds faces.
            gallery: of people embedded by the describer's embedder.
            settings: how people are followed and named.
            threshold: least cosine of a match, in place of the gallery's and the model's.
            bank: is asked about faces the gallery does not know.

        Raises:
            ArgumentError: the threshold is no cosine.
        """
        if threshold is not None and not -1.0 <= threshold.value <= 1.0:
            raise ArgumentError(
                f"the threshold is {threshold.value}: it is a cosine, from -1 to 1, such as 0.4"
            )
        self.describer, self.gallery = describer, gallery
        self.settings = settings or Settings()
        self._thresholds = ThresholdProvider(gallery, describer.embedder.card, threshold)
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
        settings: Settings | None = None,
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
            learn: let the gallery grow from video by the rules of `gallery.GrowthRules`; other
                rules are given in the settings.
            settings: how people are followed and named.
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
        try:
            find = Detector.load(detector, runtime=runtime, threads=threads, max_side=max_side)
            growth = GrowthRules() if learn else None
            settings = replace(settings or Settings(), growth=growth) if learn else settings
            return cls(Describer(find, embed), store, settings, threshold=fixed, bank=bank)
        except BaseException:
            store.close()
            raise

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
        return self.describer(images.read(picture))

    def identify(self, picture: images.Source) -> list[Sighting]:
        """Who is in a picture: one sighting per face, largest first, nobody named twice."""
        faces = self.faces(picture)
        matches = [self.gallery.search(f.embedding) for f in faces if f.embedding is not None]
        limits = self._thresholds()
        decisions = decide_together(
            matches, limits.known, stranger=limits.stranger, margin=self.settings.rules.margin
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
        self,
        name: str,
        pictures: Iterable[images.Source],
        *,
        policy: FacePolicy = "require_one",
        on_bad: OnBad | None = None,
    ) -> Enrolment:
        """Add pictures of one person to the gallery, all or none unless bad ones are passed over.

        Args:
            name: any script; an existing name gains samples.
            pictures: paths, encoded bytes or arrays.
            policy: `require_one` face per picture, take the `largest`, or `skip` unfit pictures.
            on_bad: called with what is wrong with a bad picture, which is then passed over.

        Raises:
            ImageError: a picture is unreadable or has no face or, under `require_one`, several,
                and is not passed over; or none is left.
            GalleryError: the name is not acceptable.
        """
        _several(pictures)
        taken: list[Face] = []
        sources: list[str] = []
        bad: list[tuple[str, ImageError]] = []
        for index, picture in enumerate(pictures):
            label = _label(picture, index)
            try:
                taken.append(self._one_face(picture, policy))
                sources.append(label)
            except ImageError as error:
                if policy != "skip" and on_bad is None:
                    raise
                bad.append((label, error))
        if not taken:
            reasons = "; ".join(str(error) for _, error in bad) or "no picture was given"
            raise ImageError(f"nothing to enrol for {name!r}: {reasons}")
        if on_bad is not None:
            for _, reason in bad:
                on_bad(reason)
        embeddings = np.stack([f.embedding for f in taken if f.embedding is not None])
        qualities = [f.quality for f in taken]
        person = self.gallery.enroll(name, embeddings, qualities=qualities, sources=sources)
        return Enrolment(person, len(taken), tuple((label, str(e)) for label, e in bad))

    def calibrate(
        self,
        cohort: Iterable[images.Source] | None = None,
        *,
        fpir: float,
        progress: Progress | None = None,
        on_bad: OnBad | None = None,
    ) -> Calibration:
        """Set the gallery's threshold so that a stranger is named with probability `fpir`.

        Args:
            cohort: one picture each of people who are not in the gallery; the largest face counts.
                Without it a model of strangers stands in (`edgeface.cohort`): it errs on the safe
                side, states by how much it may be off, and never goes below the card's threshold.
            fpir: false-positive identification rate wanted (ISO/IEC 19795-1), in (0, 1).
            progress: told how many pictures or people are done, and of how many.
            on_bad: called with what is wrong with a bad picture, which is then passed over.

        Returns:
            the calibration; it is stored with the gallery, and follows its size from then on.

        Raises:
            CalibrationError: the gallery is empty, the cohort smaller than three over `fpir`, or
                without a cohort there is no model beside the embedder or it knows of no rate as
                small as `fpir`.
            ImageError: a picture is unreadable or shows no face, and is not passed over.
        """
        _several(cohort)
        if cohort is None:
            result = self._thresholds.modelled(fpir, progress)
        else:
            best: list[float] = []
            pictures = list(cohort)
            for done, picture in enumerate(pictures, 1):
                try:
                    row = self._one_face(picture, "largest").embedding
                except ImageError as error:
                    if on_bad is None:
                        raise
                    on_bad(error)
                else:
                    assert row is not None
                    best += [m.similarity for m in self.gallery.search(row, 1, kind=Kind.KNOWN)]
                if progress is not None:
                    progress(done, len(pictures))
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
                f"{len(faces)} faces in {label}, one is needed; give a picture of one person, or "
                "choose the largest face"
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
                self.describer,
                self.gallery,
                self.settings,
                thresholds=self._thresholds,
                bank=self._bank,
                first_track=self._next_track,
            )
        return self._follower

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
            live: how live sources are watched, in place of the settings.
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
        frames = video.frames(
            source, name=name, live=live or self.settings.live, should_stop=should_stop
        )
        return _watch(follower, frames, every, on_frame, Sinks(sinks))

    def explain(self, trace: Trace) -> list[Curve]:
        """Per track, how similar its faces and its template were to the person it resembles most;
        `edgeface.plot.plot` draws it."""
        aggregator = self._following().aggregator
        return trace.curves(self.gallery, aggregator, self.threshold.value)


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


def _several(pictures: object) -> None:
    """Refuse one picture where several are wanted: the letters of a name are no paths."""
    if isinstance(pictures, str | bytes | os.PathLike | np.ndarray):
        raise ArgumentError(
            f"pictures is one {type(pictures).__name__}: give a list, such as [picture]"
        )


def _label(picture: images.Source, index: int | None) -> str:
    if isinstance(picture, bytes | np.ndarray):
        return "the picture" if index is None else f"picture {index + 1}"
    # A file name need not be UTF-8; what is stored and shown has to be.
    return os.fsencode(picture).decode("utf-8", "backslashreplace")
