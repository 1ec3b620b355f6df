"""Training sets of clips, the closed forms, and the network that is written as it was trained."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from edgeface.aggregate import Aggregator, Learned  # noqa: E402
from edgeface.models import InputSpec, ModelCard  # noqa: E402
from edgeface.types import Threshold  # noqa: E402
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
