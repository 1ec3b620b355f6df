"""A gallery that grows by itself, corrects itself, and says what looks wrong."""

from __future__ import annotations

import numpy as np
import pytest
from gallery_faces import faces, names

from edgeface.errors import GalleryError
from edgeface.gallery import Finding, Flaw, Gallery, Growth, GrowthRules, Kind, Provenance, audit
from edgeface.types import Template, Threshold

pytest_plugins = ("gallery_places",)
LINE = Threshold(0.5, "user")


def near(row: np.ndarray, cosine: float, seed: int = 0) -> np.ndarray:
    """A unit vector at the given cosine to the unit vector `row`."""
    other = faces(10_000 + seed)[0]
    other -= (other @ row) * row
    other /= np.linalg.norm(other)
    return (cosine * row + np.sqrt(1.0 - cosine**2) * other).astype(np.float32)


def seen(row: np.ndarray, quality: float = 0.9, confidence: float = 0.9, n: int = 4) -> Template:
    return Template(embedding=row, confidence=confidence, weight=quality * n, n_faces=n)


def test_a_stranger_needs_two_sightings_and_keeps_their_number(gallery: Gallery) -> None:
    growth, face = Growth(gallery), faces(1)[0]
    assert growth.see(1, seen(face), time=0.0, threshold=LINE) is None
    assert growth.see(1, seen(face), time=0.5, threshold=LINE) is None
    assert names(gallery) == []
    match = growth.see(1, seen(face), time=1.5, threshold=LINE)
    assert match is not None
    assert match.name == "stranger-1"
    assert gallery.person("stranger-1").kind is Kind.STRANGER
    assert [s.provenance for s in gallery.samples("stranger-1")] == [Provenance.AUTOMATIC]
    growth.end(1)
    again = growth.see(2, seen(near(face, 0.8)), time=99.0, threshold=LINE)
    assert again is not None
    assert again.person_id == match.person_id
    gallery.forget("stranger-1")
    growth.see(3, seen(faces(2)[0]), time=100.0, threshold=LINE)
    growth.see(3, seen(faces(2)[0]), time=102.0, threshold=LINE)
    assert names(gallery) == ["stranger-2"], "a forgotten number does not come back"


def test_strangers_are_joined_from_where_linking_says(gallery: Gallery) -> None:
    asked: list[int] = []

    def linking(samples: int) -> float:
        asked.append(samples)
        return 0.3

    growth, face = Growth(gallery, linking=linking), faces(1)[0]
    for time in (0.0, 2.0):
        growth.see(1, seen(face), time=time, threshold=LINE)
    # Below the threshold at which somebody known is named, and still the same stranger.
    again = growth.see(2, seen(near(face, 0.4)), time=9.0, threshold=LINE)
    assert again is not None
    assert again.name == "stranger-1"
    assert set(asked) == {1}
    gallery.enroll("Ann", faces(2))
    assert growth.see(3, seen(near(faces(2)[0], 0.4)), time=20.0, threshold=LINE) is None


def test_a_face_between_linking_and_the_threshold_may_open_a_stranger(gallery: Gallery) -> None:
    gallery.enroll("Ann", faces(2))
    growth = Growth(gallery, linking=lambda samples: 0.3)
    for time in (0.0, 2.0):
        growth.see(3, seen(near(faces(2)[0], 0.4)), time=time, threshold=LINE)
    assert names(gallery) == ["Ann", "stranger-1"]


def test_a_stranger_gathers_what_surely_belongs_to_them(gallery: Gallery) -> None:
    growth, face = Growth(gallery, linking=lambda samples: 0.3), faces(1)[0]
    for track, cosine in enumerate((1.0, 0.34, 0.4)):
        for time in (0.0, 2.0):
            look = seen(near(face, cosine, seed=track))
            growth.see(track, look, time=10.0 * track + time, threshold=LINE)
    kept = np.stack([s.embedding for s in gallery.samples("stranger-1")])
    np.testing.assert_allclose(kept @ face, [1.0, 0.4], atol=1e-5)


@pytest.mark.parametrize("poor", [{"quality": 0.1}, {"confidence": 0.2}])
def test_poor_faces_open_nobody(gallery: Gallery, poor: dict[str, float]) -> None:
    growth = Growth(gallery)
    for time in range(5):
        assert growth.see(1, seen(faces(1)[0], **poor), time=time, threshold=LINE) is None
    assert names(gallery) == []


def test_a_face_close_to_somebody_opens_nobody(gallery: Gallery) -> None:
    gallery.enroll("Ann", faces(1))
    growth = Growth(gallery)
    for time in range(5):
        doubtful = seen(near(faces(1)[0], 0.48))
        assert growth.see(1, doubtful, time=time, threshold=LINE) is None
    assert names(gallery) == ["Ann"]


def test_hysteresis_keeps_a_track_with_its_person(gallery: Gallery) -> None:
    ann = gallery.enroll("Ann", faces(1))
    growth = Growth(gallery)

    def sees(cosine: float, time: float) -> int | None:
        match = growth.see(1, seen(near(faces(1)[0], cosine)), time=time, threshold=LINE)
        return match and match.person_id

    assert sees(0.47, 0.0) is None, "not enough to join"
    assert sees(0.55, 0.1) == ann.id
    assert sees(0.47, 0.2) == ann.id, "enough to stay"
    assert sees(0.40, 0.3) is None
    assert sees(0.47, 0.4) is None


@pytest.mark.parametrize(
    ("cosine", "quality", "grown"),
    [(0.7, 0.9, True), (0.55, 0.9, False), (0.95, 0.9, False), (0.7, 0.2, False)],
    ids=["a new view", "not sure enough", "nothing new", "too blurred"],
)
def test_a_known_person_grows_only_by_good_new_views(
    gallery: Gallery, cosine: float, quality: float, grown: bool
) -> None:
    gallery.enroll("Ann", faces(1))
    growth, view = Growth(gallery), near(faces(1)[0], cosine)
    growth.see(1, seen(view, quality), time=0.0, threshold=LINE)
    assert gallery.person("Ann").n_samples == 1, "once is not enough"
    growth.see(1, seen(view, quality), time=2.0, threshold=LINE, source="cam0 at 2 s")
    samples = gallery.samples("Ann")
    assert (len(samples) == 2) is grown
    if grown:
        assert (samples[1].provenance, samples[1].source) == (Provenance.AUTOMATIC, "cam0 at 2 s")
        assert gallery.undo().action == "grow"
        assert gallery.person("Ann").n_samples == 1


def test_automatic_samples_do_not_vouch_for_more(gallery: Gallery) -> None:
    """A chain of views, each near the last, does not lead away from what the user supplied."""
    ann, face = gallery.enroll("Ann", faces(1)), faces(1)[0]
    step = near(face, 0.7)
    gallery.grow(ann.id, step)
    away = near(step, 0.75, seed=1)
    away -= (away @ face - 0.3) * face
    away /= np.linalg.norm(away)
    assert gallery.search(away, 1)[0].similarity > 0.6
    assert away @ face < 0.5
    growth = Growth(gallery)
    for time in (0.0, 2.0, 4.0):
        growth.see(1, seen(away), time=time, threshold=LINE)
    assert gallery.person("Ann").n_samples == 2


def test_people_of_one_picture_stay_apart(gallery: Gallery) -> None:
    ann = gallery.enroll("Ann", faces(1))
    growth, twin = Growth(gallery), near(faces(1)[0], 0.8)
    for time in (0.0, 2.0):
        match = growth.see(2, seen(twin), time=time, threshold=LINE, present=[ann.id])
        assert match is None, "Ann is elsewhere in the picture"
    bea = gallery.enroll("Bea", near(twin, 0.9, seed=3))
    match = growth.see(2, seen(twin), time=4.0, threshold=LINE, present=[ann.id])
    assert match is not None
    assert match.person_id == bea.id
    assert gallery.different_from(ann.id) == {bea.id}
    with pytest.raises(GalleryError, match="known to be different"):
        gallery.merge("Ann", "Bea")
    assert gallery.merge("Ann", "Bea", force=True).n_samples == 2
    gallery.undo()
    assert gallery.different_from(bea.id) == {ann.id}, "undo brings the knowledge back"


def test_naming_a_stranger_vouches_for_them(gallery: Gallery) -> None:
    stranger = gallery.add_stranger(faces(1)[0])
    bob = gallery.rename("stranger-1", "Bob")
    assert (bob.id, bob.kind) == (stranger.id, Kind.KNOWN)
    assert [s.provenance for s in gallery.samples("Bob")] == [Provenance.USER]
    gallery.undo()
    assert gallery.person("stranger-1") == stranger
    assert [s.provenance for s in gallery.samples("stranger-1")] == [Provenance.AUTOMATIC]


def test_split_and_its_undo(gallery: Gallery) -> None:
    ann = gallery.enroll("Ann", faces(1, 4))
    ids = [s.id for s in gallery.samples("Ann")]
    other = gallery.split("Ann", ids[2:])
    assert (other.name, other.n_samples) == ("stranger-1", 2)
    assert gallery.search(faces(1, 4)[3])[0].person_id == other.id
    assert gallery.different_from(ann.id) == {other.id}
    assert gallery.undo().action == "split"
    assert gallery.person("Ann") == ann
    assert gallery.different_from(ann.id) == set()
    assert gallery.split("Ann", ids[:1], "Bea").name == "Bea"
    for wrong, message in [([ids[0]], "not of 'Ann'"), (ids[1:], "rename"), ([], "choose")]:
        with pytest.raises(GalleryError, match=message):
            gallery.split("Ann", wrong)
    with pytest.raises(GalleryError, match="already called 'Bea'"):
        gallery.split("Ann", ids[1:2], "Bea")


def test_not_this_person_is_remembered(gallery: Gallery) -> None:
    gallery.enroll("Ann", faces(1))
    visitor = near(faces(1)[0], 0.8)
    assert gallery.search(visitor)[0].name == "Ann"
    stranger = gallery.not_this_person("Ann", embedding=visitor)
    assert gallery.search(near(visitor, 0.95, seed=5))[0].person_id == stranger.id
    gallery.undo()
    assert gallery.search(visitor)[0].name == "Ann"
    gallery.enroll("Ann", visitor)
    wrong = gallery.samples("Ann")[1].id
    assert gallery.not_this_person("Ann", sample=wrong).kind is Kind.STRANGER
    assert gallery.person("Ann").n_samples == 1
    with pytest.raises(GalleryError, match="which face"):
        gallery.not_this_person("Ann")


def test_audit_finds_what_was_done_wrong(gallery: Gallery) -> None:
    base = faces(1, 4)
    for number, name in enumerate(["Ann", "Bea", "Cleo"]):
        gallery.enroll(name, [near(base[number], 0.85, seed=10 * number + i) for i in range(4)])
    assert audit(gallery, 0.5) == []
    gallery.enroll("Ann", near(base[1], 0.9, seed=77))
    mislabelled = gallery.samples("Ann")[-1].id
    gallery.enroll("Cleo", base[3])
    outlier = gallery.samples("Cleo")[-1].id
    gallery.enroll("Beatrice", [near(base[1], 0.85, seed=80 + i) for i in range(3)])
    found = [(f.flaw, f.person, f.sample) for f in audit(gallery, 0.5)]
    assert (Flaw.MISLABELLED, "Ann", mislabelled) in found
    assert (Flaw.OUTLIER, "Cleo", outlier) in found
    assert (Flaw.DUPLICATE, "Bea", None) in found
    gallery.never_same(gallery.person("Bea").id, gallery.person("Beatrice").id)
    assert not [f for f in audit(gallery, 0.5) if f.flaw is Flaw.DUPLICATE]


def test_audit_of_nobody(gallery: Gallery) -> None:
    nothing: list[Finding] = []
    assert audit(gallery, 0.5) == nothing


def learn_crowd(gallery: Gallery, people: int) -> None:
    """New faces, all in one picture, seen three times."""
    growth, rows = Growth(gallery), faces(77, people)
    held: dict[int, int] = {}
    for moment in (0.0, 2.0, 4.0):
        with growth.step():
            for track, row in enumerate(rows):
                others = [p for t, p in held.items() if t != track]
                match = growth.see(track, seen(row), time=moment, threshold=LINE, present=others)
                if match is not None:
                    held[track] = match.person_id


def test_what_a_frame_teaches_is_one_commit(gallery: Gallery, monkeypatch) -> None:
    commits = []
    transaction = type(gallery._db).transaction

    def counted(self):
        commits.append(1)
        return transaction(self)

    monkeypatch.setattr(type(gallery._db), "transaction", counted)
    learn_crowd(gallery, 12)
    assert len(commits) <= 3
    people = gallery.people()
    assert len(people) == 12
    assert all(len(gallery.different_from(p.id)) == 11 for p in people)


def test_a_batch_is_all_or_nothing_and_its_parts_are_too(gallery: Gallery) -> None:
    gallery.enroll("Ann", faces(1))
    with pytest.raises(ZeroDivisionError), gallery.batch():
        gallery.enroll("Bea", faces(2))
        raise ZeroDivisionError
    assert names(gallery) == ["Ann"]
    with gallery.batch():
        gallery.enroll("Bea", faces(2))
        with pytest.raises(GalleryError, match="nobody"):
            gallery.rename("Nobody", "Somebody")
        with gallery.batch():
            gallery.enroll("Cleo", faces(3))
    assert names(gallery) == ["Ann", "Bea", "Cleo"]
    assert gallery.search(faces(3)[0])[0].name == "Cleo"
    assert gallery.undo().action == "enroll"
    assert names(gallery) == ["Ann", "Bea"]


def test_strangers_have_a_limit(gallery: Gallery, caplog) -> None:
    growth = Growth(gallery, GrowthRules(strangers=2))
    for track, row in enumerate(faces(5, 4)):
        for moment in (0.0, 2.0, 4.0):
            growth.see(track, seen(row), time=10.0 * track + moment, threshold=LINE)
    assert gallery.count(Kind.STRANGER) == 2
    assert caplog.text.count("learns no more") == 1
