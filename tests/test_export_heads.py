"""export.heads: partitions, heads, the bank they become, and its exports."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.calibrate import Calibration  # noqa: E402
from edgeface.errors import EdgefaceError  # noqa: E402
from edgeface.models import load_card  # noqa: E402
from edgeface.runtime import open_session  # noqa: E402
from edgeface.submodels import Rule, SubmodelBank, unit  # noqa: E402
from export.features import Features, centres_of, split  # noqa: E402
from export.head_files import (  # noqa: E402
    PRECISIONS,
    Precision,
    changed,
    export,
    to_onnx,
    to_openvino,
)
from export.head_partition import partition  # noqa: E402
from export.head_training import HeadSettings, _start_embedded, train_head, train_heads  # noqa: E402
from export.heads import main, modelled  # noqa: E402


def features(classes: int = 40, each: int = 12, d: int = 32, spread: float = 0.1) -> Features:
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((classes, d)))
    y = np.repeat(np.arange(classes), each)
    x = unit(centres[y] + spread * rng.standard_normal((len(y), d)))
    return Features(x, y, [f"p{i:02d}" for i in range(classes)])


@pytest.mark.parametrize(("n", "k"), [(40, 4), (41, 5), (7, 7), (300, 9)])
def test_kmeans_cells_are_balanced_and_never_empty(n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    # Two thirds of the classes in one tight lump: plain k-means would starve the other cells.
    lump = unit(np.ones((n, 16)) + 0.01 * rng.standard_normal((n, 16)))
    centres = np.where(np.arange(n)[:, None] < 2 * n // 3, lump, unit(rng.standard_normal((n, 16))))
    cells = partition(centres, k)
    sizes = np.bincount(cells, minlength=k)
    assert sizes.min() >= 1 and sizes.max() <= np.ceil(1.05 * n / k)
    np.testing.assert_array_equal(cells, partition(centres, k))


def test_kmeans_is_tighter_than_chance() -> None:
    rng = np.random.default_rng(1)
    groups = unit(rng.standard_normal((4, 32)))
    centres = unit(np.repeat(groups, 25, axis=0) + 0.1 * rng.standard_normal((100, 32)))
    cells = partition(centres, 4)
    assert all(len(np.unique(cells[25 * g : 25 * g + 25])) == 1 for g in range(4))
    sizes = np.bincount(partition(centres, 3, method="random"))
    assert sizes.max() - sizes.min() <= 1
    assert partition(centres, 1, method="single").max() == 0
    with pytest.raises(ValueError, match="expected 1 to 100"):
        partition(centres, 101)


def test_a_head_separates_what_means_confuse() -> None:
    """Skewed classes: the mean of a class with an outlying mode sits close to its neighbour."""
    rng = np.random.default_rng(0)
    base = unit(rng.standard_normal((20, 16)))
    y = np.repeat(np.arange(20), 30)
    pull = (rng.random(len(y)) < 0.3)[:, None] * base[(y + 1) % 20] * 0.9
    x = unit(base[y] + pull + 0.1 * rng.standard_normal((len(y), 16)))
    centres = centres_of(x, y, 20)
    w = train_head((x, y), (x, y), centres, HeadSettings(epochs=8, lr=2e-2, batch=64))
    assert ((x @ w.T).argmax(1) == y).mean() > ((x @ centres.T).argmax(1) == y).mean()
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), 1, rtol=1e-6)


def test_same_seed_same_weights() -> None:
    train, val = split(features(), 3)
    submodel = partition(centres_of(train.x, train.y, 40), 3)
    settings = HeadSettings(epochs=2, batch=32)
    first = train_heads(train, val, submodel, settings=settings)
    np.testing.assert_array_equal(first, train_heads(train, val, submodel, settings=settings))


def test_ray_gives_the_local_weights() -> None:
    pytest.importorskip("ray")
    train, val = split(features(), 3)
    submodel = partition(centres_of(train.x, train.y, 40), 2)
    settings = HeadSettings(epochs=2, batch=32)
    local = train_heads(train, val, submodel, settings=settings)
    fanned = train_heads(train, val, submodel, settings=settings, ray="local")
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
        _start_embedded(busy)
    assert busy.tries == 3


def test_command_line_makes_a_working_bank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = features()
    folder = tmp_path / "people"
    write_people(folder, data, "x")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    others = unit(np.random.default_rng(5).standard_normal((300, 32)))
    np.save(strangers / "embeddings.npy", others)
    np.save(strangers / "labels.npy", np.zeros(300, dtype=np.int64))
    code = main([
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
    assert main([str(tmp_path), "-o", str(tmp_path / "b"), "--embedder", "x"]) == 1
    assert "no embeddings.npy" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["mixmaxsim", "sim", "maxmax", "fold"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_say_what_the_bank_says(tmp_path: Path, kind: str, precision: Precision) -> None:
    pytest.importorskip("onnx")
    openvino = pytest.importorskip("openvino")
    data = features(spread=0.2)
    centres = centres_of(data.x, data.y, 40)
    weights = unit(centres + 0.1 * np.random.default_rng(2).standard_normal(centres.shape))
    bank = SubmodelBank.pack(
        weights, centres, partition(centres, 3), names=data.names,
        rule=Rule(kind, tau=0.9, gamma=0.7), embedder="x",  # type: ignore[arg-type]
    )  # fmt: skip
    file = tmp_path / "bank.onnx"
    to_onnx(bank, file, precision)
    got = open_session(file).run({"probes": data.x})
    classes, similarities = bank.classify(data.x)
    near = 0.02 if precision == "int8" else 1e-5
    same = got["class"][:, 0] == classes
    assert same.all() if precision != "int8" else same.mean() > 0.99
    np.testing.assert_allclose(got["similarity"][same, 0], similarities[same], atol=near)
    assert changed(file, bank, data.x) == 1 - same.mean()
    to_openvino(file, tmp_path / "bank.xml")
    # Whoever opens the file knows nothing of our settings.
    plain = openvino.Core().compile_model(str(tmp_path / "bank.xml"), "CPU")(data.x)
    alike = plain["class"][:, 0] == classes
    assert alike.all() if precision != "int8" else alike.mean() > 0.99
    np.testing.assert_allclose(plain["similarity"][alike, 0], similarities[alike], atol=near)
    if precision == "int8":  # opened as edgeface does, they are those of ONNX to the last
        ours = open_session(tmp_path / "bank.xml").run({"probes": data.x})
        np.testing.assert_allclose(ours["similarity"], got["similarity"], atol=1e-5)


def test_files_are_written_in_every_precision_and_kept_where_they_decide_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    data = features(classes=300, each=4, d=128)
    centres = centres_of(data.x, data.y, 300)
    bank = SubmodelBank.pack(
        centres, centres, partition(centres, 3), names=data.names, rule=Rule("mixmaxsim"),
        embedder="x",
    )  # fmt: skip
    found = export(bank, data.x, tmp_path / "bank.onnx", tmp_path / "bank.xml")
    stems = ("bank", "bank.float16", "bank.int8")
    assert set(found) == {f"{stem}.{kind}" for stem in stems for kind in ("onnx", "xml")}
    for kind in ("onnx", "xml"):
        sizes = [found[f"{stem}.{kind}"]["bytes"] for stem in stems]
        assert sizes[1] < 0.65 * sizes[0] and sizes[2] < 0.7 * sizes[1]
        assert all(found[f"{stem}.{kind}"]["changed"] == 0 for stem in stems)
        assert all((tmp_path / f"{stem}.{kind}").exists() for stem in stems)
    # Probes halfway between two classes, which 8 bits cannot hold apart.
    other = SubmodelBank.pack(
        unit(centres + 1e-4 * centres[::-1]), centres, partition(centres, 3), names=data.names,
        rule=Rule("maxmax"), embedder="x",
    )  # fmt: skip
    halfway = unit(centres + centres[::-1])
    found = export(other, halfway, tmp_path / "worse.onnx", None)
    assert set(found) == {"worse.onnx", "worse.float16.onnx"}
    assert not (tmp_path / "worse.int8.onnx").exists()
    assert "worse.int8.onnx is left out" in capsys.readouterr().err
    # One probe of many is enough: what is offered decides alike for all of them.
    near = next(x for x in halfway if changed(_int8(tmp_path, other), other, x[None]))
    found = export(other, np.vstack([centres, near[None]]), None, tmp_path / "one.xml")
    assert set(found) == {"one.xml", "one.float16.xml"}
    assert all(of["changed"] == 0 for of in found.values())
    assert not list(tmp_path.glob("one.int8.*"))
    assert "one.int8.xml is left out: 1 of 301 validation probes" in capsys.readouterr().err


def _int8(folder: Path, bank: SubmodelBank) -> Path:
    file = folder / "trial.onnx"
    to_onnx(bank, file, "int8")
    return file


def write_people(folder: Path, data: Features, key: str) -> None:
    folder.mkdir(parents=True)
    for c, name in enumerate(data.names):
        np.savez(folder / f"{name}.npz", **{key: 7 * data.x[data.y == c]})


def prepared(folder: Path, classes: int = 40) -> Features:
    """A set as MixMaxSim's users have it: 20, 5 and 5 of each, under three keys; its test part."""
    rng = np.random.default_rng(3)
    names = [f"n{i:06d}" for i in range(classes)]
    centres = rng.standard_normal((classes, 32))
    parts = {}
    for part, each in (("train", 20), ("val", 5), ("test", 5)):
        y = np.repeat(np.arange(classes), each)
        x = unit(centres[y] + 1.3 * rng.standard_normal((len(y), 32)))
        parts[part] = Features(x, y, names)
        write_people(folder / part, parts[part], {"train": "arr_0", "val": "x"}.get(part, "feats"))
    return parts["test"]


def test_a_prepared_set_is_trained_tuned_and_judged_as_it_is_divided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = prepared(tmp_path / "set")
    bank_file = tmp_path / "bank.efb"
    out = ["-o", str(bank_file), "--embedder", "e" * 64, "--epochs", "2", "--rule", "mixmaxsim"]
    assert main([str(tmp_path / "set"), *out]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    bank = SubmodelBank.load(bank_file)
    answers, similarity = bank.classify(test.x)
    right = answers == test.y
    assert 0.5 < right.mean() < 1
    assert report["test"]["accuracy"] == pytest.approx(right.mean())
    assert report["test"]["recall"] == pytest.approx(right.mean())  # five of each class
    precision = [
        right[answers == c].mean() if (answers == c).any() else 0.0 for c in range(len(bank))
    ]
    assert report["test"]["precision"] == pytest.approx(np.mean(precision))
    named = np.mean(right & (similarity >= report["threshold"]))
    assert report["test"]["named"] == pytest.approx(named)
    # Nobody knows that embedder: what 1 % of the 200 validation probes are to another class.
    assert report["threshold_origin"] == bank.rule.origin == "model:fpir=1e-2@N=40"
    assert "threshold is of the classes among themselves" in captured.err
    rng = np.random.default_rng(4)
    assert (
        np.mean([d.name is not None for d in bank.identify(unit(rng.normal(size=(500, 32))))])
        < 0.05
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: np.savez(f / "val" / "stranger.npz", x=np.ones((2, 32))), "stranger are not in"),
        (
            lambda f: np.savez(f / "test" / "n000001.npz", a=np.ones(3), b=np.ones(3)),
            "one called x",
        ),
        (lambda f: np.savez(f / "val" / "n000001.npz", np.zeros((2, 32))), "none of them zero"),
        (lambda f: np.savez(f / "train" / "n000001.npz", np.ones((2, 31))), "of 31 numbers"),
        (lambda f: (f / "val" / "n000001.npz").write_bytes(b"PK"), "expected an .npz"),
    ],
)
def test_what_is_wrong_in_a_prepared_set_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, message: str
) -> None:
    prepared(tmp_path / "set", classes=6)
    spoil(tmp_path / "set")  # type: ignore[operator]
    out = ["-o", str(tmp_path / "bank.efb"), "--embedder", "e" * 64, "--epochs", "1"]
    assert main([str(tmp_path / "set"), *out]) == 1
    assert message in capsys.readouterr().err


def test_a_bank_without_strangers_gets_its_threshold_from_the_model_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = load_card("mobilefacenet", "embedding", verify=False)
    curve = Calibration.of_card(card)
    assert curve is not None
    centres = unit(np.random.default_rng(0).standard_normal((50, card.size)))
    limit = modelled(centres, card.digest, 1e-2)
    assert limit is not None and limit.origin == "model:fpir=1e-2@N=50"
    assert limit.value >= curve.default_at(50).value
    # Classes that resemble each other need a higher one.
    alike = unit(centres + 0.12)
    assert modelled(alike, card.digest, 1e-2).value > limit.value  # type: ignore[union-attr]
    folder = tmp_path / "people"
    write_people(folder, features(classes=8), "x")
    out = ["-o", str(tmp_path / "bank.efb"), "--embedder", "e" * 64, "--epochs", "1"]
    assert main([str(folder), *out, "--submodels", "2"]) == 0
    assert "among themselves" in capsys.readouterr().err
    # 40 probes tell no lower rate than 1 in 40.
    assert SubmodelBank.load(tmp_path / "bank.efb").rule.origin == "model:fpir=3e-2@N=8"
