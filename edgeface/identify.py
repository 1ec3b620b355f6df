"""The composition for pictures, and the front door: open, enrol, identify, verify, watch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from edgeface import images, video
from edgeface.answers import ask_bank, complete
from edgeface.calibrate import Calibration, calibrate
from edgeface.closing import Closing
from edgeface.cohort import Progress
from edgeface.decide import decide_together
from edgeface.describe import Describer
from edgeface.detect import MAX_SIDE, Detector
from edgeface.embed import DEFAULT, Embedder
from edgeface.enrolment import (
    Enrolling,
    Enrolment,
    FacePolicy,
    OnBad,
    choose,
    one_face,
    resembling,
    store,
)
from edgeface.errors import ArgumentError
from edgeface.follow import Follower
from edgeface.gallery import Gallery, GrowthRules, Kind
from edgeface.plot import Curve
from edgeface.recognisability import NAMED
from edgeface.runtime import Runtime
from edgeface.settings import Settings
from edgeface.sightings.company import Company
from edgeface.sinks import Sink, Sinks
from edgeface.stages import StageTimes
from edgeface.submodels import SubmodelBank
from edgeface.thresholds import CALIBRATION, Linking, ThresholdProvider, Thresholds, expected
from edgeface.trace import Trace
from edgeface.types import Event, Face, Flaw, Frame, Sighting, Status, Threshold
from edgeface.watching import watch


@dataclass(frozen=True, slots=True)
class Verification:
    """Two pictures compared: raw cosine `similarity`, the `threshold`, whether it is the `same`;
    never where one of the faces cannot be recognised, for the `reason` given."""

    similarity: float
    threshold: Threshold
    same: bool
    reason: Flaw | None = None


def compare(
    describer: Describer,
    a: images.Source,
    b: images.Source,
    threshold: Threshold | None = None,
) -> Verification:
    """Whether the largest sure faces of two pictures are the same person, without a gallery: by
    default with the threshold that the embedder's card states for one person.

    Raises:
        ImageError: a picture is unreadable or shows no face.
    """
    limit = threshold or expected(describer.embedder.card, 1)
    faces = [one_face(describer, p, "largest") for p in (a, b)]
    first, second = (f.embedding for f in faces)
    assert first is not None and second is not None
    similarity = float(first @ second)
    reason = next((f.flaw for f in faces if f.recognisability < NAMED), None)
    return Verification(similarity, limit, reason is None and similarity >= limit.value, reason)


class Identifier(Closing):
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
        company: Company | None = None,
    ) -> None:
        """Put one together; `open` does it from files.

        Args:
            describer: finds and embeds faces.
            gallery: of people embedded by the describer's embedder.
            settings: how people are followed and named.
            threshold: least cosine of a match, in place of the gallery's and the model's.
            bank: is asked about faces the gallery does not know.
            company: of tracks of other sources, which may name one together.

        Raises:
            ArgumentError: the threshold is no cosine.
        """
        if threshold is not None and not -1.0 <= threshold.value <= 1.0:
            raise ArgumentError(
                f"the threshold is {threshold.value}: it is a cosine, from -1 to 1, such as 0.4"
            )
        self.describer, self.gallery = describer, gallery
        self.settings, self.fixed = settings or Settings(), threshold
        self._thresholds = ThresholdProvider(gallery, describer.embedder.card, threshold)
        self.bank: SubmodelBank | None = None
        if bank is not None:
            self.bank = bank.with_threshold(self._thresholds.of_bank(bank))
        self.times = StageTimes()  # of frames, since this was made
        self._company = company
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

    def close(self) -> None:
        """Close the gallery."""
        self.gallery.close()

    @property
    def threshold(self) -> Threshold:
        """The threshold of known people for the gallery as it is now, and where it came from."""
        return self._thresholds().known

    def thresholds(self) -> Thresholds:
        """The thresholds of known people and of strangers, for the gallery as it is now."""
        return self._thresholds()

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
        """Who is in a picture: one sighting per face, largest first, nobody named twice; a face
        that cannot be recognised is `low_quality`, with the reason."""
        faces = self.faces(picture)
        rows = [f.embedding for f in faces if f.embedding is not None]
        fit = [f.recognisability >= NAMED for f in faces]
        asked = list(zip(rows, fit, strict=True))
        matches = [self.gallery.search(row) if good else [] for row, good in asked]
        limits = self._thresholds()
        decisions = decide_together(
            matches, limits.known, stranger=limits.stranger, margin=self.settings.rules.margin
        )
        banks = [ask_bank(self.bank, row) if good else None for row, good in asked]
        decisions = complete(decisions, banks)
        return [
            Sighting(f, d if good else d.nobody(Status.LOW_QUALITY, f.flaw))
            for f, d, good in zip(faces, decisions, fit, strict=True)
        ]

    def verify(self, a: images.Source, b: images.Source) -> Verification:
        """Whether the largest sure faces of two pictures are the same person.

        Raises:
            ImageError: a picture is unreadable or shows no face.
        """
        return compare(self.describer, a, b, self.threshold)

    def enroll(
        self,
        name: str,
        pictures: Iterable[images.Source],
        *,
        policy: FacePolicy = "require_one",
        accept_poor: bool = False,
        on_bad: OnBad | None = None,
    ) -> Enrolment:
        """Add pictures of one person to the gallery, all or none unless bad ones are passed over.

        Args:
            name: any script; an existing name gains samples.
            pictures: paths, encoded bytes or arrays.
            policy: `require_one` face per picture, take the `largest`, or `skip` unfit pictures.
            accept_poor: take also faces that can hardly be recognised. Strangers get names from
                those: with ten people enrolled from blurred pictures most blurred strangers did.
            on_bad: called with what is wrong with a bad picture, which is then passed over.

        Raises:
            ImageError: a picture is unreadable, has no face or, under `require_one`, several, or
                one that can hardly be recognised (the message says why), and is not passed over; or
                none is left.
            GalleryError: the name is not acceptable.
        """
        chosen = choose(self.describer, name, pictures, policy, on_bad, accept_poor=accept_poor)
        return store(self.gallery, name, chosen)

    def enrolling(self) -> Enrolling:
        """Enrol many people within a block, several with one commit:

        with app.enrolling() as group:
            for name, pictures in people:
                group.add(name, pictures)
        """
        return Enrolling(self.describer, self.gallery)

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
        if cohort is None:
            result = self._thresholds.modelled(fpir, progress)
        else:
            best = resembling(self.describer, self.gallery, cohort, progress, on_bad)
            result = calibrate(best, fpir=fpir, size=self.gallery.count(Kind.KNOWN))
        self.gallery.write_note(CALIBRATION, result.to_json())
        return result

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
                bank=self.bank,
                first_track=self._next_track,
                times=self.times,
                company=self._company,
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
        link: video.Link | None = None,
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
            link: kept up to date with whether a live source is there.
        """
        if every < 1:
            raise ArgumentError(f"every is {every}: process each n-th frame, n 1 or more")
        self.reset()
        follower = self._following()
        follower.trace = trace
        frames = video.frames(
            source,
            name=name,
            live=live or self.settings.live,
            should_stop=should_stop,
            link=link,
        )
        return watch(follower, frames, every, on_frame, Sinks(sinks))

    def explain(self, trace: Trace) -> list[Curve]:
        """Per track, how similar its faces and its template were to the person it resembles most;
        `edgeface.plot.plot` draws it."""
        aggregator = self._following().aggregator
        return trace.curves(self.gallery, aggregator, self.threshold.value)
