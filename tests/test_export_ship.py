"""One command makes everything that belongs to an embedder, goes on where it stopped, and leaves
what ships alone unless every gate is passed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")
cv2 = pytest.importorskip("cv2")

from tiny_network import TINY  # noqa: E402

from edgeface.cohort import Cohort  # noqa: E402
from edgeface.embed import Embedder  # noqa: E402
from edgeface.errors import EdgefaceError  # noqa: E402
from edgeface.models import FileRef, FusionSpec, digest, load_card, read_card, write_card  # noqa: E402
from edgeface.recognisability import Recogniser  # noqa: E402
from export import gate, ship  # noqa: E402
from export.data import Crop, Pack, open_pack, pack  # noqa: E402
from export.networks import mobilefacenet  # noqa: E402
from export.placing import install  # noqa: E402
from export.teachers import to_input  # noqa: E402
from export.threshold import held_out_pairs, small_probe_tar  # noqa: E402
from export.to_onnx import load_network, to_onnx  # noqa: E402
from export.training import save  # noqa: E402


def picture(person: int, rng: np.random.Generator) -> np.ndarray:
    """A pattern that tells a person, with noise."""
    base = np.random.default_rng(person).integers(0, 256, (7, 7, 3))
    small = np.clip(base + rng.normal(0, 15, base.shape), 0, 255).astype(np.uint8)
    return np.kron(small, np.ones((16, 16, 1), np.uint8))


def crops(folder: Path, person: str, number: int, count: int, rng) -> list[Crop]:
    (folder / person).mkdir(parents=True)
    rows = []
    for i in range(count):
        name = f"{person}_{i + 1:04d}.webp"
        cv2.imwrite(str(folder / person / name), picture(number, rng))
        rows.append(Crop(f"{folder.stem}/{person}", folder, f"{person}/{name}"))
    return rows


def trained(images: np.ndarray, seed: int) -> mobilefacenet.MobileFaceNet:
    torch.manual_seed(seed)
    network = mobilefacenet.build("tiny")
    with torch.no_grad():
        for _ in range(10):
            network.train()(torch.from_numpy(to_input(images)))
    return network.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pack of families and two sets of people, LFW's layout, a checkpoint, and the words."""
    folder = tmp_path_factory.mktemp("ship")
    rng, rows = np.random.default_rng(2), []
    for number in range(80):
        family = f"F{number // 2:04d}_MID{number % 2}"
        rows += crops(folder / "kin", family, number, 3, rng)
    for name, first in (("one", 100), ("two", 200)):
        for number in range(60):
            rows += crops(folder / name, f"{number:03d}", first + number, 3, rng)
    pack(rows, folder / "pack")
    lines = ["2\t10"]
    for number in range(40):
        crops(folder / "lfw" / "aligned112", f"P{number}", 300 + number, 2, rng)
    for fold in range(2):
        people = range(20 * fold, 20 * fold + 10)
        lines += [f"P{n}\t1\t2" for n in people]
        lines += [f"P{n}\t1\tP{n + 10}\t2" for n in people]
    (folder / "lfw" / "pairs.txt").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mobilefacenet.SPECS, "tiny", TINY)
        # Forty pairs of patterns: one that changes sides is 2.5 %.
        patch.setitem(gate.BUDGETS, "int8", gate.Budget(0.99, 0.95, 10.0, 60.0))
        network = trained(np.load(folder / "pack.npy")[:64], 9)
        save(folder / "end.pt", network="tiny", phase="end", step=7, student=network.state_dict())
        words = [str(folder / "end.pt"), "--name", "tiny", "--pack", str(folder / "pack"),
                 "--lfw", str(folder / "lfw"), "--out", str(folder / "weights"),
                 "--folds", "2", "--terms", "for tests"]  # fmt: skip
        yield folder, words


def test_everything_is_made_once_and_lands_together(made, capsys):
    folder, words = made
    words = [*words, "--work", str(folder / "work"), "--without", "fusion"]
    assert ship.main(words) == 0
    for name in ("tiny", "tiny-int8"):
        card = load_card(folder / "weights" / f"{name}.onnx", "embedding")
        assert card.license == "for tests"
        assert "40 held-out" not in card.derivation
        assert card.impostors is not None
        Cohort.load(card.path.with_suffix(".cohort.npz"), model=card.digest)
        assert Recogniser.beside(card.path, card.digest) is not None
        rows = Embedder.load(card.path, threads=1)(np.load(folder / "pack.npy")[:3])
        assert rows.shape == (3, 8)
    assert "openvino" in card.variants
    capsys.readouterr()
    before = {f: f.stat().st_mtime_ns for f in (folder / "weights").iterdir()}
    assert ship.main(words) == 0
    assert capsys.readouterr().err.count("is done") == 11
    assert before == {f: f.stat().st_mtime_ns for f in (folder / "weights").iterdir()}


def test_a_stopped_run_goes_on_and_other_options_begin_anew(tmp_path):
    work, done = tmp_path / "again", []

    def step(name: str) -> ship.Step:
        return name, lambda: done.append(name)

    def broken() -> None:
        raise EdgefaceError("no power")

    work.mkdir()
    with pytest.raises(EdgefaceError, match="no power"):
        ship.run([step("a"), ("b", broken), step("c")], work, {"digest": "1"})
    ship.run([step("a"), step("b"), step("c")], work, {"digest": "1"})
    assert done == ["a", "b", "c"]
    ship.run([step("a")], work, {"digest": "2"})
    assert done == ["a", "b", "c", "a"]
    assert json.loads((work / "ship.json").read_text())["key"] == {"digest": "2"}


def test_what_tells_held_out_people_apart_worse_is_not_shipped(made):
    folder, _ = made
    target, work = folder / "better", folder / "worse"
    for place in (target, work):
        place.mkdir()
    network, _ = load_network(folder / "end.pt")
    onnx.save(to_onnx(network), str(target / "tiny.onnx"))
    with torch.no_grad():  # says nearly the same of everybody
        network.blocks["stem"][0][0].weight.mul_(1e-3)
    onnx.save(to_onnx(network), str(work / "tiny.onnx"))
    with pytest.raises(EdgefaceError, match="tiny finds fewer of the held-out people"):
        ship.compare(work, target, ["tiny"], folder / "pack")
    gains = ship.compare(target, work, ["tiny"], folder / "pack")
    assert gains["tiny.kin.tar1e-4"] > 0
    assert {"tiny.kin.px24.tar1e-3", "tiny.kin.px16.tar1e-4"} <= gains.keys()
    assert ship.compare(work, folder / "nothing", ["tiny"], folder / "pack") == {}


def test_a_missed_budget_leaves_the_weights_alone(made, monkeypatch):
    folder, words = made
    monkeypatch.setitem(gate.BUDGETS, "int8", gate.Budget(1.1, 1.1, 0.0, 0.0))
    target = folder / "untouched"
    words[words.index("--out") + 1] = str(target)
    with pytest.raises(EdgefaceError, match=r"parity .* failed with exit code 1"):
        ship.main([*words, "--work", str(folder / "work3"), "--without", "fusion"])
    assert not target.exists()
    words[words.index("--out") + 1] = str(folder / "weights")


ENDS = (".onnx", ".json", ".cohort.npz", ".recognisability.npz")


def test_files_that_the_new_card_does_not_name_go(made, tmp_path):
    folder, _ = made
    source = folder / "weights"
    target, work = tmp_path / "target", tmp_path / "work"
    install(source, target, ["tiny"])
    for part in ("update", "readout"):
        (target / f"tiny.{part}.onnx").write_bytes(part.encode())
    one, two = (target / f"tiny.{part}.onnx" for part in ("update", "readout"))
    spec = FusionSpec(4, 8, FileRef(one, digest(one)), FileRef(two, digest(two)))
    write_card(replace(read_card(target / "tiny.json"), fusion=spec))
    install(source, target, ["tiny"])
    assert {f.name for f in target.iterdir()} == {f"tiny{end}" for end in ENDS}
    assert not work.exists()


def test_relatives_do_not_raise_a_cards_threshold():
    names, rows = ("kin/F0001_MID1", "kin/F0001_MID2", "kin/F0002_MID1"), np.arange(6)
    images = np.zeros((6, 112, 112, 3), np.uint8)
    data = Pack(images, np.repeat([0, 1, 2], 2), names, (), np.ones(6, bool))
    # Relatives look alike, strangers do not.
    unit = np.array([[1, 0], [1, 0], [0.9, 0.436], [0.9, 0.436], [0, 1], [0, 1]], np.float32)
    cosine, same = held_out_pairs(data, unit, rows)
    assert same.sum() == 3
    assert (~same).sum() == 8
    assert cosine[~same].max() < 0.5
    assert small_probe_tar(data, lambda _: unit, rows, unit) == 1.0


def test_a_missing_file_is_named(made, capsys):
    folder, words = made
    assert ship.main([*words, "--work", str(folder / "x"), "--labels", str(folder / "no.csv")]) == 2
    assert "no.csv" in capsys.readouterr().err
    assert open_pack(folder / "pack").keep.all()
