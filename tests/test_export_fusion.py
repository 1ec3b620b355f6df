"""Training sets of clips, the closed forms, and the network that is written as it was trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import edgeface  # noqa: E402
from edgeface.aggregate import Aggregator, Learned  # noqa: E402
from edgeface.errors import DataError  # noqa: E402
from edgeface.models import InputSpec, ModelCard, load_card  # noqa: E402
from edgeface.types import Threshold  # noqa: E402
from export import fusion  # noqa: E402
from export.fusion import to_onnx  # noqa: E402
from export.fusion_network import Fusion, looks  # noqa: E402
from export.fusion_sets import SHIPPED, Crowd, fuse, score  # noqa: E402
from export.protocols.clips import Features, clip, others  # noqa: E402
from export.protocols.intervals import interval  # noqa: E402

SIZE, PEOPLE, PICTURES = 16, 10, 3


@pytest.fixture(scope="module")
def features() -> Features:
    """Ten people, three pictures each, of each the picture itself and two clips of four frames."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(PEOPLE, SIZE))
    person = np.repeat(np.arange(PEOPLE), PICTURES * 9)
    picture = np.repeat(np.arange(PEOPLE * PICTURES), 9)
    number = np.tile([-1, 0, 0, 0, 0, 1, 1, 1, 1], PEOPLE * PICTURES)
    quality = np.where(number < 0, 0.9, rng.uniform(0.05, 0.9, len(person)))
    rows = centres[person] + rng.normal(size=(len(person), SIZE)) / (0.5 + quality[:, None])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Features(
        rows.astype(np.float32),
        rng.uniform(5, 10, len(rows)).astype(np.float32),
        rng.normal(size=(len(rows), 3)).astype(np.float32),
        quality.astype(np.float32),
        person,
        picture,
        np.where(number < 0, -1, 2 * picture + number),
    )


def test_a_clip_comes_from_its_seed_and_varies() -> None:
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    (frames, sizes), (again, _) = (clip(image, np.random.default_rng(4), 5) for _ in range(2))
    np.testing.assert_array_equal(frames, again)
    assert frames.shape == (5, 112, 112, 3)
    assert (sizes >= 8).all()
    assert (sizes <= 112).all()
    assert len(np.unique(sizes)) > 1


@pytest.mark.parametrize(
    ("n", "share", "wrong"), [(1, 0.3, 0), (4, 0.1, 1), (16, 0.1, 2), (16, 0.3, 5), (64, 0.0, 0)]
)
def test_how_many_frames_are_another_persons(n: int, share: float, wrong: int) -> None:
    assert others(n, share) == wrong


def test_sets_are_of_other_pictures_than_the_good_one(features: Features) -> None:
    crowd = Crowd(features, np.arange(PEOPLE))
    assert not set(crowd.people) & set(crowd.strangers)
    rows, good, people = crowd.sets(8, 0.3, seed=1, each=3)
    assert rows.shape == (24, 8)
    for frames, clean, person in zip(rows, good, people, strict=True):
        assert features.clip[clean] == -1
        assert features.person[clean] == person
        assert (features.clip[frames] >= 0).all()
        own = features.person[frames] == person
        assert own.sum() == 6
        assert np.isin(features.person[frames[~own]], crowd.strangers).all()
        assert (features.picture[frames[own]] != features.picture[clean]).all()


def test_the_closed_form_is_the_one_that_ships(features: Features) -> None:
    rows = np.arange(1, 9)[None]
    fused = fuse(features.embedding[rows], features.quality[rows].astype(np.float64), SHIPPED)[0]
    aggregator = Aggregator(SIZE)
    state = aggregator.add(
        aggregator.empty(), features.embedding[rows[0]], features.quality[rows[0]]
    )
    np.testing.assert_allclose(fused, aggregator.read(state).embedding, atol=1e-6)


def test_score_knows_right_from_wrong() -> None:
    good = np.eye(5, dtype=np.float32)
    people = np.arange(5)
    assert score(good, people, good) == {"tar": 100.0, "rank1": 100.0}
    assert score(np.roll(good, 1, axis=0), people, good) == {"tar": 0.0, "rank1": 0.0}


def test_the_interval_of_no_difference_is_nothing_and_of_a_clear_one_is_clear() -> None:
    rng, n = np.random.default_rng(0), 60
    people = np.arange(n)
    poor = rng.uniform(-0.2, 0.6, (n, n)).astype(np.float32)
    better = poor + 0.5 * np.eye(n, dtype=np.float32)
    assert interval([poor], [poor], [people], n) == (0.0, 0.0)
    low, high = interval([better], [poor], [people], n)
    assert 0 < low < high


def test_the_graphs_say_what_the_network_says(features: Features, tmp_path: Path) -> None:
    torch.manual_seed(3)
    columns = looks(features, ("embedding",))
    network = Fusion(SIZE, columns).eval()
    with torch.no_grad():  # not the zeros training begins with
        for layer in (network.readout.channels, network.update.weight):
            layer.weight.normal_(0, 0.3)
    fusion = to_onnx(network, tmp_path / "toy.onnx", features)
    for file in (fusion.update, fusion.readout):
        assert hashlib.sha256(file.path.read_bytes()).hexdigest() == file.digest
    path, threshold = tmp_path / "toy.onnx", Threshold(0.5, "card")
    spec = InputSpec("image")
    card = ModelCard("toy", "embedding", path, "0", SIZE, threshold, spec, fusion=fusion)
    aggregator = Aggregator(SIZE, Learned.beside(card))
    for n in (1, 3, 17):
        rows = np.random.default_rng(n).choice(len(features.person), n, replace=False)
        with torch.no_grad():
            wanted = network(features, rows[None]).numpy()[0]
        state = aggregator.add(aggregator.empty(), features.embedding[rows], features.quality[rows])
        np.testing.assert_allclose(aggregator.read(state).embedding, wanted, atol=2e-5)


def tracks(file: Path, people: int = 40, size: int = SIZE) -> dict[str, np.ndarray]:
    """Somebody's tracks: of each person two good pictures and two tracks of twelve frames."""
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(people), 26)
    track = np.concatenate(
        [np.concatenate([[-1, -1], np.repeat([2 * p, 2 * p + 1], 12)]) for p in range(people)]
    )
    spread = np.where(track < 0, 0.3, rng.uniform(0.5, 3.0, len(track)))[:, None]
    rows = rng.normal(size=(people, size))[person] + spread * rng.normal(size=(len(person), size))
    found = {
        "features": (rows * rng.uniform(5, 9, (len(rows), 1))).astype(np.float32),
        "person": np.array([f"n{p}" for p in person]),
        "track": track,
        "quality": (1 / (1 + spread[:, 0])).astype(np.float32),
    }
    np.savez(file, **found)
    return found


def test_somebody_elses_tracks_are_read(tmp_path: Path) -> None:
    given = tracks(tmp_path / "tracks.npz")
    found = Features.given(tmp_path / "tracks.npz", SIZE)
    raw = given["features"]
    np.testing.assert_allclose(found.embedding * found.norm[:, None], raw, rtol=1e-5)
    assert len(np.unique(found.picture)) == 4 * 40  # every good picture and every track
    crowd = Crowd(found, np.unique(found.person))
    frames, good = crowd.one(3, 8, 0.0, np.random.default_rng(0))
    assert len(frames) == 8 and (found.clip[frames] >= 0).all()
    assert found.clip[good] == -1 and (found.person[[*frames, good]] == 3).all()
    assert len(crowd.rich(24)) == len(crowd.people) and not len(crowd.rich(25))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"track": None}, "expected an .npz with features, person and track"),
        ({"track": np.zeros(3, int)}, "with a person, a track and a quality each"),
        ({"track": np.zeros(1040, int)}, "0 people with a good picture"),
        ({"features": np.zeros((1040, SIZE))}, "have no direction"),
    ],
)
def test_what_is_wrong_with_tracks_is_named(tmp_path: Path, change: dict, message: str) -> None:
    file = tmp_path / "tracks.npz"
    given = tracks(file) | change
    np.savez(file, **{k: v for k, v in given.items() if v is not None})
    with pytest.raises(DataError, match=message):
        Features.given(file, SIZE)


def test_a_network_of_given_tracks_is_kept_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path(edgeface.__file__).parent / "weights"
    for suffix in ("onnx", "json"):
        shutil.copy(weights / f"mobilefacenet-edge.{suffix}", tmp_path / f"mine.{suffix}")
    text = (tmp_path / "mine.json").read_text()
    document = json.loads(text) | {"name": "mine", "file": "mine.onnx"}
    (tmp_path / "mine.json").write_text(json.dumps({**document, "variants": {}}))
    card = load_card(tmp_path / "mine.onnx", "embedding")
    tracks(tmp_path / "tracks.npz", size=card.size)
    monkeypatch.setattr(fusion, "fit", lambda crowd, scale: (SHIPPED, SHIPPED))
    words = ["--features", str(tmp_path / "tracks.npz"), "--model", str(card.path)]
    assert fusion.main([*words, "--iterations", "5", "--keep"]) == 0
    made = load_card(card.path, "embedding")
    learned = Learned.beside(made)
    assert learned is not None
    found = Features.given(tmp_path / "tracks.npz", card.size)
    aggregator = Aggregator(card.size, learned)
    state = aggregator.add(aggregator.empty(), found.embedding[2:14], found.quality[2:14])
    template = aggregator.read(state).embedding
    assert template @ found.embedding[0] > template @ found.embedding[26]
    assert fusion.main(["--features", str(tmp_path / "none.npz"), "--model", str(card.path)]) == 1
