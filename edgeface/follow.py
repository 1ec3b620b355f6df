"""Following a video: the faces of each frame become tracks, tracks gather evidence, events tell.

The order of the stages for a frame is here, that for single pictures in `identify`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from edgeface import images
from edgeface.aggregate import Aggregator, Evidence, Learned
from edgeface.answers import ask_bank, complete
from edgeface.decide import Confirmation, decide_together
from edgeface.describe import Describer
from edgeface.errors import ArgumentError
from edgeface.gallery import Gallery, Growth
from edgeface.gate import Gate
from edgeface.motion import thumbnail
from edgeface.recognisability import ENROLLED
from edgeface.settings import Settings
from edgeface.sightings.company import Company, Stay
from edgeface.stages import Stage, StageTimes
from edgeface.submodels import SubmodelBank
from edgeface.thresholds import Thresholds
from edgeface.trace import Look, Trace
from edgeface.track import SceneCut, State, Track, Tracker
from edgeface.types import (
    Array,
    Decision,
    Event,
    EventKind,
    Face,
    Flaw,
    Frame,
    Image,
    Match,
    Sighting,
    Status,
    Template,
    new_run,
)

# Least quality at which looks may join a face to a lost track: poor faces resemble one another.
RECOGNISABLE = 0.2
# Least chance of a face that says something of its track: several together say more than one.
HEARD = 0.1


@dataclass(frozen=True, slots=True)
class _Moment:
    """A frame without its picture."""

    time: float
    index: int
    source: str
    at: datetime
    size: tuple[int, int]  # (width, height), px


@dataclass(slots=True, eq=False)
class _Dossier:
    """What is known about one track, and what was already told."""

    evidence: Evidence
    confirmation: Confirmation
    decision: Decision
    matches: list[Match]
    elsewhere: Decision | None = None  # what the submodel bank says of the template
    announced: bool = False
    named: str | None = None
    last: _Moment | None = None  # it was seen at
    stamp: object = None  # the state of the gallery that the matches are of
    best: float = 0.0  # recognisability of its best face
    begun: datetime | None = None  # when it had its first face that says something
    together: bool = False  # the matches are those of its whole visit

    def unfit(self, flaw: Flaw | None) -> None:
        """Say why nobody can tell who it is, while that is so."""
        if self.decision.status is Status.LOW_QUALITY:
            self.decision = replace(self.decision, reason=flaw)


class Follower:
    """Follows one source. Not thread-safe; make another one for another source.

    `thresholds` is asked at every frame, so that people who are enrolled and thresholds that are
    calibrated meanwhile count at once; tracks go on, and their ids never return.

    With `settings.growth` the gallery learns: strangers become numbered people, known people gain
    samples under the rules of `Growth`. `aggregator` makes one template of a track's faces.
    Describer, gallery, bank and `company`, which names tracks of several sources by what they say
    together, may be shared by several followers. `times` counts how long stages
    take.
    """

    def __init__(
        self,
        describer: Describer,
        gallery: Gallery,
        settings: Settings,
        *,
        thresholds: Callable[[], Thresholds],
        bank: SubmodelBank | None = None,
        aggregator: Aggregator | None = None,
        first_track: int = 1,
        times: StageTimes | None = None,
        company: Company | None = None,
    ) -> None:
        self._times = times or StageTimes()
        self._describer, self._gallery, self._settings = describer, gallery, settings
        self._thresholds, self._bank, self._company = thresholds, bank, company
        embedder = describer.embedder
        self.aggregator = aggregator or Aggregator(embedder.size, Learned.beside(embedder.card))
        self._tracker = Tracker(settings.tracking or describer.tracking, first_id=first_track)
        self._cut = SceneCut()
        self._gate: Gate | None = None
        if settings.motion is not None:
            self._gate = Gate(describer.detector, settings.motion)
        self._tracks: list[Track] = []
        self._growth: Growth | None = None
        if settings.growth is not None:
            self._growth = Growth(
                gallery, settings.growth, linking=lambda _: thresholds().stranger.value
            )
        self._dossiers: dict[int, _Dossier] = {}
        self._time, self._told = float("-inf"), 0
        self._now: _Moment | None = None
        self.run = new_run()
        self.sightings: list[Sighting] = []
        self.trace: Trace | None = None  # kept while somebody wants to see it afterwards

    @property
    def next_track(self) -> int:
        """The id that the next new track gets."""
        return self._tracker.next_id

    def step(self, frame: Frame) -> list[Event]:
        """Process one frame of a loop the caller owns.

        Raises:
            ArgumentError: it is no `Frame`, or its time lies before that of the frame before.
            ImageError: its image is not (H, W, 3) uint8.
        """
        if not isinstance(frame, Frame):
            raise ArgumentError(
                f"a step takes a Frame, got {type(frame).__name__}; "
                "use Frame(image, time in seconds, index)"
            )
        if frame.time < self._time:
            raise ArgumentError(
                f"a frame of {frame.time:g} s after one of {self._time:g} s: times must not "
                "decrease; begin another source with reset()"
            )
        image = images.check(frame.image)
        height, width = image.shape[:2]
        moment = _Moment(frame.time, frame.index, frame.source, frame.at, (width, height))
        self._time, self._now = frame.time, moment
        limits = self._thresholds()
        with self._times(Stage.DETECTION):
            faces = self._find(image, frame.time)
        tracks = self._tracker.update(faces, frame.time, lambda f: self._looks(image, f))
        self._tracks = tracks
        seen, fresh = self._gather(image, tracks, frame.time, limits)
        self._judge(seen, fresh, limits)
        self._learn(seen, fresh, frame.time, limits)
        for track in seen:
            self._dossiers[track.id].last = moment
        shown = [t for t in seen if t.state is State.CONFIRMED]
        self.sightings = [
            Sighting(t.face, self._shown(t.id), t.id, _made(self._dossiers[t.id])) for t in shown
        ]
        gone = [t for t in tracks if t.state is State.REMOVED]
        return [e for t in shown for e in self._news(t)] + self._farewells(gone)

    def _find(self, image: Image, time: float) -> list[Face]:
        """The faces of a frame; after a scene cut, tracks go on by appearance alone."""
        gate = self._gate
        small = image if gate is None else thumbnail(image, gate.ratio(image))
        cut = self._cut(small)
        if cut:
            self._tracker.cut()
        if gate is None:
            return self._describer.detector(image)
        return gate(image, small, time, self._tracks, cut=cut)

    def finish(self) -> list[Event]:
        """The events that end all tracks, as when the source has ended."""
        self.sightings = []
        return self._farewells(self._tracker.update([], float("inf")))

    def _gather(
        self, image: Image, tracks: list[Track], time: float, limits: Thresholds
    ) -> tuple[list[Track], set[int]]:
        """Embed the faces worth it; returns the tracks seen now, under new ids where one changed
        hands, and the ids that have new evidence."""
        seen = [t for t in tracks if t.last_seen == time]
        due = [t for t in seen if not t.weak and self._dossier(t.id).evidence.due(time)]
        described = self._describe(image, [t.face for t in due], self._settings.policy.min_quality)
        fresh = set()
        for found, face in zip(due, described, strict=True):
            track, dossier = found, self._dossier(found.id)
            if face.embedding is None or face.recognisability < HEARD:
                dossier.unfit(face.flaw)
                if face.embedding is not None:
                    dossier.evidence.pass_over(time)
                continue
            added = dossier.evidence.add(face.embedding, face.quality, time)
            if dossier.evidence.changed_hands:
                track = replace(track, id=self._tracker.split(track.id), first_seen=time)
                seen = [track if t.id == found.id else t for t in seen]
                dossier = self._dossier(track.id)
                added = dossier.evidence.add(face.embedding, face.quality, time)
            dossier.best = max(dossier.best, face.recognisability)
            if added:
                template = dossier.evidence.template().embedding
                if self.trace is not None:
                    self.trace.note(track.id, Look(time, face.embedding, face.quality, template))
                if face.quality >= RECOGNISABLE:
                    self._tracker.remember(track.id, template)
                self._search(track.id, dossier, limits)
                dossier.elsewhere = ask_bank(self._bank, template)
                fresh.add(track.id)
        return seen, fresh

    def _describe(self, image: Image, faces: Sequence[Face], least: float) -> list[Face]:
        if not faces:
            return []
        with self._times(Stage.EMBEDDING):
            return self._describer.follow(image, faces, least=least)

    def _search(self, track: int, dossier: _Dossier, limits: Thresholds) -> None:
        template, now = dossier.evidence.template(), self._now
        dossier.stamp, dossier.together = limits.stamp, False
        with self._times(Stage.SEARCH):
            dossier.matches = self._gallery.search(template.embedding)
        if self._company is not None and now is not None:
            dossier.begun = dossier.begun or now.at
            stay = Stay(
                (self.run, track), now.source, dossier.begun, max(now.at, dossier.begun),
                template.embedding, template.weight,
            )  # fmt: skip
            named = self._company.hear(stay, dossier.matches, limits)
            if named is not None:
                dossier.matches, dossier.together = named, True

    def _judge(self, seen: list[Track], fresh: set[int], limits: Thresholds) -> None:
        """Decide for all faces of the frame together; only new evidence confirms a name."""
        known = [(t, d) for t in seen if (d := self._dossier(t.id)).evidence.template().weight > 0]
        for track, dossier in known:
            if dossier.stamp != limits.stamp:  # people came, went or got other names
                self._search(track.id, dossier, limits)
        rows = [d.matches for _, d in known]
        raw = decide_together(
            rows,
            limits.known,
            stranger=limits.stranger,
            margin=self._settings.rules.margin,
            shown=[d.decision.person_id for _, d in known],
            hold=self._settings.rules.hold,
        )
        raw = complete(raw, [d.elsewhere for _, d in known])
        for (track, dossier), decision in zip(known, raw, strict=True):
            if track.id in fresh or decision.person_id != dossier.decision.person_id:
                dossier.decision = dossier.confirmation.update(decision)

    def _learn(self, seen: list[Track], fresh: set[int], time: float, limits: Thresholds) -> None:
        """Let the gallery learn from the confirmed tracks that have new evidence."""
        if self._growth is None:
            return
        held = {t.id: self._dossiers[t.id].decision.person_id for t in seen}
        with self._growth.step():
            for track in (t for t in seen if t.id in fresh and t.state is State.CONFIRMED):
                dossier = self._dossiers[track.id]
                # Whom only the whole visit names is no stranger to be numbered.
                if dossier.best < ENROLLED or dossier.together:
                    continue
                self._growth.see(
                    track.id,
                    dossier.evidence.template(),
                    time=time,
                    threshold=limits.known,
                    present=[p for t, p in held.items() if t != track.id and p is not None],
                )

    def _shown(self, track: int) -> Decision:
        """What a track shows now: no name while its last face looked like somebody else's."""
        dossier = self._dossiers[track]
        if dossier.evidence.doubtful and dossier.decision.name is not None:
            return dossier.decision.nobody(Status.UNCERTAIN)
        return dossier.decision

    def _dossier(self, track: int) -> _Dossier:
        if track not in self._dossiers:
            nothing, limit = float("nan"), self._thresholds().known
            self._dossiers[track] = _Dossier(
                Evidence(self.aggregator, self._settings.policy),
                Confirmation(self._settings.rules),
                Decision(Status.LOW_QUALITY, None, None, nothing, nothing, limit),
                [],
            )
        return self._dossiers[track]

    def _news(self, track: Track) -> list[Event]:
        dossier = self._dossiers[track.id]
        kinds = [] if dossier.announced else [EventKind.SEEN]
        name = dossier.decision.name
        if name != dossier.named:
            kinds.append(EventKind.IDENTIFIED if dossier.named is None else EventKind.CHANGED)
        dossier.announced, dossier.named = True, name
        return [self._event(kind, track, dossier) for kind in kinds]

    def _event(self, kind: EventKind, track: Track, dossier: _Dossier) -> Event:
        moment = dossier.last
        assert moment is not None  # who is told of has been seen
        self._told += 1
        return Event(
            kind,
            track.id,
            moment.time,
            moment.index,
            track.face.box,
            dossier.decision,
            moment.source,
            moment.at,
            moment.size,
            f"{self.run}-{self._told:08}",
            self.run,
            _made(dossier),
        )

    def _farewells(self, gone: list[Track]) -> list[Event]:
        events = []
        for t in gone:
            dossier = self._dossiers.pop(t.id, None)
            if self._growth is not None:
                self._growth.end(t.id)
            if dossier is not None and dossier.announced:
                events.append(self._event(EventKind.LOST, t, dossier))
        return events

    def _looks(self, image: Image, faces: Sequence[Face]) -> Array:
        """Embeddings by which lost tracks may be found again; zeros, like nobody, if poor."""
        nobody = np.zeros(self._describer.embedder.size, np.float32)
        described = self._describe(image, faces, RECOGNISABLE)
        return np.stack([nobody if f.embedding is None else f.embedding for f in described])


def _made(dossier: _Dossier) -> Template | None:
    """The template of a track, None while nothing is in it."""
    template = dossier.evidence.template()
    return template if template.weight > 0 else None
