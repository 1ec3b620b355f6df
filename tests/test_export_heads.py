"""export.heads: partitions, heads, the bank they become, and its exports."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.calibrate import Calibration  # noqa: E402
from edgeface.errors import EdgefaceError  # noqa: E402
from edgeface.models import load_card  # noqa: E402
from edgeface.submodels import Rule, SubmodelBank, unit  # noqa: E402
from export import heads  # noqa: E402


def features(classes: int = 40, each: int = 12, d: int = 32, spread: float = 0.1) -> heads.Features:
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((classes, d)))
    y = np.repeat(np.arange(classes), each)
    x = unit(centres[y] + spread * rng.standard_normal((len(y), d)))
    return heads.Features(x, y, [f"p{i:02d}" for i in range(classes)])


@pytest.mark.parametrize(("n", "k"), [(40, 4), (41, 5), (7, 7), (300, 9)])
def test_kmeans_cells_are_balanced_and_never_empty(n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    # Two thirds of the classes in one tight lump: plain k-means would starve the other cells.
    lump = unit(np.ones((n, 16)) + 0.01 * rng.standard_normal((n, 16)))
    centres = np.where(np.arange(n)[:, None] < 2 * n // 3, lump, unit(rng.standard_normal((n, 16))))
    cells = heads.partition(centres, k)
    sizes = np.bincount(cells, minlength=k)
    assert sizes.min() >= 1 and sizes.max() <= np.ceil(1.05 * n / k)
    np.testing.assert_array_equal(cells, heads.partition(centres, k))


def test_kmeans_is_tighter_than_chance() -> None:
    rng = np.random.default_rng(1)
    groups = unit(rng.standard_normal((4, 32)))
    centres = unit(np.repeat(groups, 25, axis=0) + 0.1 * rng.standard_normal((100, 32)))
    cells = heads.partition(centres, 4)
    assert all(len(np.unique(cells[25 * g : 25 * g + 25])) == 1 for g in range(4))
    sizes = np.bincount(heads.partition(centres, 3, method="random"))
    assert sizes.max() - sizes.min() <= 1
    assert heads.partition(centres, 1, method="single").max() == 0
    with pytest.raises(ValueError, match="expected 1 to 100"):
        heads.partition(centres, 101)


def test_a_head_separates_what_means_confuse() -> None:
    """Skewed classes: the mean of a class with an outlying mode sits close to its neighbour."""
    rng = np.random.default_rng(0)
    base = unit(rng.standard_normal((20, 16)))
    y = np.repeat(np.arange(20), 30)
    pull = (rng.random(len(y)) < 0.3)[:, None] * base[(y + 1) % 20] * 0.9
    x = unit(base[y] + pull + 0.1 * rng.standard_normal((len(y), 16)))
    centres = heads.centres_of(x, y, 20)
    w = heads.train_head((x, y), (x, y), centres, heads.HeadSettings(epochs=8, lr=2e-2, batch=64))
    assert ((x @ w.T).argmax(1) == y).mean() > ((x @ centres.T).argmax(1) == y).mean()
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), 1, rtol=1e-6)


def test_same_seed_same_weights() -> None:
    train, val = heads.split(features(), 3)
    submodel = heads.partition(heads.centres_of(train.x, train.y, 40), 3)
    settings = heads.HeadSettings(epochs=2, batch=32)
    first = heads.train_heads(train, val, submodel, settings=settings)
    np.testing.assert_array_equal(first, heads.train_heads(train, val, submodel, settings=settings))


def test_ray_gives_the_local_weights() -> None:
    pytest.importorskip("ray")
    train, val = heads.split(features(), 3)
    submodel = heads.partition(heads.centres_of(train.x, train.y, 40), 2)
    settings = heads.HeadSettings(epochs=2, batch=32)
    local = heads.train_heads(train, val, submodel, settings=settings)
    fanned = heads.train_heads(train, val, submodel, settings=settings, ray="local")
    np.testing.assert_array_equal(local, fanned)


def test_ray_that_cannot_start_is_tried_again_and_named() -> None:
    class Busy:
        tries = 0

        def init(self, **_: object) -> None:
            self.tries += 1
            raise Exception("The current node timed out during startup")

        def shutdown(self) -> None:
            pass

    busy = Busy()
    with pytest.raises(EdgefaceError, match="timed out during startup; leave --ray out"):
        heads._start_embedded(busy)
    assert busy.tries == 3


def test_command_line_makes_a_working_bank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = features()
    folder = tmp_path / "people"
    folder.mkdir()
    for c, name in enumerate(data.names):
        np.savez(folder / f"{name}.npz", x=data.x[data.y == c])
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    others = unit(np.random.default_rng(5).standard_normal((300, 32)))
    np.save(strangers / "embeddings.npy", others)
    np.save(strangers / "labels.npy", np.zeros(300, dtype=np.int64))
    code = heads.main([
        str(folder), "-o", str(tmp_path / "bank.efb"), "--embedder", "e" * 64, "--epochs", "2",
        "--unknown", str(strangers), "--rule", "mixmaxsim",
    ])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert code == 0 and report["classes"] == 40 and report["submodels"] == 4
    bank = SubmodelBank.load(tmp_path / "bank.efb", embedder="e" * 64, verify=True)
    assert bank.rule.kind == "mixmaxsim" and bank.rule.origin.startswith("calibrated:fpir=1e-2")
    found = bank.identify(data.x)
    assert np.mean([d.name == data.names[y] for d, y in zip(found, data.y, strict=True)]) > 0.9
    assert np.mean([d.name is not None for d in bank.identify(others)]) <= 0.01


def test_bad_features_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert heads.main([str(tmp_path), "-o", str(tmp_path / "b"), "--embedder", "x"]) == 1
    assert "no embeddings.npy" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["mixmaxsim", "sim", "maxmax", "fold"])
def test_onnx_says_what_the_bank_says(tmp_path: Path, kind: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    data = features(spread=0.4)
    centres = heads.centres_of(data.x, data.y, 40)
    weights = unit(centres + 0.1 * np.random.default_rng(2).standard_normal(centres.shape))
    bank = SubmodelBank.pack(
        weights, centres, heads.partition(centres, 3), names=data.names,
        rule=Rule(kind, tau=0.9, gamma=0.7), embedder="x",  # type: ignore[arg-type]
    )  # fmt: skip
    heads.to_onnx(bank, tmp_path / "bank.onnx")
    session = ort.InferenceSession(tmp_path / "bank.onnx", providers=["CPUExecutionProvider"])
    got = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"probes": data.x}),
                   strict=True))  # fmt: skip
    classes, similarities = bank.classify(data.x)
    np.testing.assert_array_equal(got["class"][:, 0], classes)
    np.testing.assert_allclose(got["similarity"][:, 0], similarities, atol=1e-5)
    if kind == "mixmaxsim":
        pytest.importorskip("openvino")
        heads.to_openvino(tmp_path / "bank.onnx", tmp_path / "bank.xml")
        import openvino

        # Whoever opens the file knows nothing of our settings.
        plain = openvino.Core().compile_model(str(tmp_path / "bank.xml"), "CPU")(data.x)
        np.testing.assert_array_equal(plain["class"][:, 0], classes)
        np.testing.assert_allclose(plain["similarity"][:, 0], similarities, atol=1e-5)


def test_a_bank_without_strangers_gets_its_threshold_from_the_model_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = load_card("mobilefacenet", "embedding", verify=False)
    curve = Calibration.of_card(card)
    assert curve is not None
    centres = unit(np.random.default_rng(0).standard_normal((50, card.size)))
    limit = heads.modelled(centres, card.digest, 1e-2)
    assert limit is not None and limit.origin == "model:fpir=1e-2@N=50"
    assert limit.value >= curve.default_at(50).value
    # Classes that resemble each other need a higher one.
    alike = unit(centres + 0.12)
    assert heads.modelled(alike, card.digest, 1e-2).value > limit.value  # type: ignore[union-attr]
    folder = tmp_path / "people"
    folder.mkdir()
    data = features(classes=8)
    for c, name in enumerate(data.names):
        np.savez(folder / f"{name}.npz", x=data.x[data.y == c])
    out = ["-o", str(tmp_path / "bank.efb"), "--embedder", "e" * 64, "--epochs", "1"]
    assert heads.main([str(folder), *out, "--submodels", "2"]) == 0
    assert "no threshold of its own" in capsys.readouterr().err
    assert SubmodelBank.load(tmp_path / "bank.efb").threshold is None
