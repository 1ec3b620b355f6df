"""A stranger's path: folders of people to an INT8 file that the package loads; siamese training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("openvino")
pytest.importorskip("matplotlib")
cv2 = pytest.importorskip("cv2")

from tiny_network import TINY  # noqa: E402

from edgeface.embed import Embedder  # noqa: E402
from edgeface.errors import EdgefaceError  # noqa: E402
from edgeface.metrics import equal_error_rate  # noqa: E402
from export import (  # noqa: E402  # noqa: E402
    card,
    classes,
    quantize,
    siamese,
    siamese_onnx,
    siamese_pairs,
    to_onnx,
    train,
    training,
)
from export.data import open_pack  # noqa: E402
from export.networks import mobilefacenet  # noqa: E402
from export.networks.inception_resnet import InceptionResNetV1, freeze_norms  # noqa: E402
from export.teachers import to_input  # noqa: E402
from export.threshold import measure  # noqa: E402

PEOPLE, PICTURES = 20, 6


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Twenty people, each a pattern of colours that its pictures vary a little."""
    root = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(11)
    for person in range(PEOPLE):
        folder = root / f"person {person:02}"
        folder.mkdir()
        face = rng.uniform(0, 255, (7, 7, 3))
        for i in range(PICTURES):
            varied = np.clip(face + rng.normal(0, 12, face.shape), 0, 255).astype(np.uint8)
            large = np.kron(varied, np.ones((16, 16, 1), np.uint8))
            assert cv2.imwrite(str(folder / f"{i}.png"), large)
    return root


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(mobilefacenet.SPECS, "tiny", TINY)


def run(people, out, *more):
    return train.main(
        ["embedder", "--data", str(people), "--out", str(out), "--network", "tiny", "--batch", "16",
         "--strength", "mild", "--warm", "5", "--rate", "1e-2", "--threads", "1", *more]
    )  # fmt: skip


@pytest.mark.parametrize("mesh", [0, 2], ids=["v1", "v2"])  # MobileFaceNetv2 has further blocks
def test_from_a_folder_of_twenty_people_to_an_int8_file_that_loads(
    people, tmp_path, monkeypatch, mesh
):
    monkeypatch.setitem(mobilefacenet.SPECS, "tiny", replace(TINY, mesh=mesh))
    assert run(people, tmp_path, "--epochs", "6") == 0
    history = torch.load(tmp_path / "embedder.pt", weights_only=True)["history"]
    losses = [h["loss"] for h in history if "loss" in h]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert (tmp_path / "curves.png").stat().st_size > 1000
    pack, model = str(tmp_path / "pack"), tmp_path / "mine-int8.onnx"
    checkpoint = str(tmp_path / "embedder.pt")
    how = ["--pack", pack, "--out", str(model), "--count", "60", "--tune", "2"]
    assert quantize.main([checkpoint, *how]) == 0
    assert card.main([str(model), "--pack", pack, "--backbone", "tiny", "--data", "patterns"]) == 0
    images = np.asarray(open_pack(tmp_path / "pack").images[:12])
    for runtime in ("onnxruntime", "openvino"):
        rows = Embedder.load(model, runtime=runtime, threads=1)(images)
        assert rows.shape == (12, 8)
        same, other = rows[0] @ rows[1:6].T, rows[0] @ rows[6:].T
        assert same.mean() > other.mean()
    about = json.loads(model.with_suffix(".json").read_text())
    assert about["training"]["data"] == "patterns"
    assert about["variants"]["openvino"]["file"] == "mine-int8.xml"


def test_a_continued_run_equals_an_uninterrupted_one(people, tmp_path):
    assert run(people, tmp_path / "whole", "--epochs", "2") == 0
    assert run(people, tmp_path / "parts", "--epochs", "2", "--stop-after", "4") == 0
    assert run(people, tmp_path / "parts", "--epochs", "2", "--resume") == 0
    whole, parts = (
        torch.load(tmp_path / name / "embedder.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole["model"][k], parts["model"][k]) for k in whole["model"])
    assert [h["loss"] for h in whole["history"] if "loss" in h] == [
        h["loss"] for h in parts["history"] if "loss" in h
    ]


def test_patience_ends_a_run_that_gets_no_better(people, tmp_path):
    assert run(people, tmp_path, "--epochs", "9", "--rate", "0", "--patience", "1") == 0
    history = torch.load(tmp_path / "embedder.pt", weights_only=True)["history"]
    assert sum("eer" in h for h in history) < 9


def test_nobody_is_both_trained_and_validated_on(people, tmp_path):
    _, data = classes.open_data(people, tmp_path)
    split = classes.split_people(data)
    assert not set(data.identity[split.train]) & set(data.identity[split.held])
    assert len(split.train) + len(split.held) == PEOPLE * PICTURES
    assert sorted(set(split.label[split.train])) == list(range(split.classes))
    batches = classes.PeopleBatches(split, people=4, pictures=8, seed=3)
    rows, label = batches.at(5)
    assert (split.label[rows] == label).all()
    assert (np.bincount(label)[np.unique(label)] == 8).all()
    assert (batches.at(5)[0] == rows).all()
    assert (batches.at(6)[0] != rows).any()


@pytest.mark.parametrize("what", ["missing", "flat", "three"])
def test_data_that_cannot_be_trained_on_is_named(tmp_path, capsys, what):
    root = tmp_path / "data"
    if what != "missing":
        root.mkdir()
    if what == "flat":
        cv2.imwrite(str(root / "a.png"), np.zeros((112, 112, 3), np.uint8))
    if what == "three":
        for person in "abc":
            (root / person).mkdir()
            for i in range(2):
                cv2.imwrite(str(root / person / f"{i}.png"), np.zeros((112, 112, 3), np.uint8))
    assert run(root, tmp_path / "out") == 1
    expected = {"missing": "neither", "flat": "no sub-folders", "three": "4 are the least"}
    assert expected[what] in capsys.readouterr().err


def test_unknown_kinds_of_training_are_refused(capsys):
    assert train.main(["poet"]) == 2
    assert "poet" in capsys.readouterr().err
    assert train.main(["--help"]) == 0


class PatternEmbedder:
    """Stands for a shipped embedder: the mean colours of a coarse grid."""

    size = 12
    card = SimpleNamespace(digest="p" * 64, name="patterns")

    def __call__(self, crops):
        grid = crops.reshape(len(crops), 2, 56, 2, 56, 3).mean((2, 4)).reshape(len(crops), -1)
        rows = (grid - grid.mean(1, keepdims=True)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def patterns(monkeypatch):
    monkeypatch.setattr(Embedder, "load", lambda *a, **k: PatternEmbedder())
    card = SimpleNamespace(threshold=SimpleNamespace(value=0.5))
    monkeypatch.setattr(siamese, "ship", lambda *a: card)  # there is no network under the head


def match(people, out, *more):
    arguments = ["siamese", "--data", str(people), "--out", str(out), "--people", "6", "--steps",
                 "40", "--every", "10", "--rate", "3e-3", "--threads", "1"]  # fmt: skip
    return train.main([*arguments, *more])


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_a_siamese_head_is_never_worse_than_none(people, tmp_path, patterns, loss):
    assert match(people, tmp_path, "--loss", loss) == 0
    report = json.loads((tmp_path / "siamese.json").read_text())
    assert report["held_out.eer.after"] <= report["held_out.eer.before"]
    assert (tmp_path / "siamese.pt").exists()
    assert (tmp_path / "curves.png").exists()


def write_list(file, who, rng, *, pairs, itself=0):
    """A list in the original's layout: every second pair is of one person, some are of one file."""
    lines = [f"person {who[0]:02}/0.png\tperson {who[0]:02}/0.png\t1"] * itself
    for k in range(pairs):
        i, j = rng.choice(who, 2, replace=False)
        a, b = rng.choice(PICTURES, 2, replace=False)
        lines.append(f"person {i:02}/{a}.png\tperson {i if k % 2 else j:02}/{b}.png\t{k % 2}")
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_a_head_is_trained_on_a_list_of_pairs_and_judged_by_another(
    people, tmp_path, patterns, loss, rng, capsys
):
    trained, known = range(5, PEOPLE), tmp_path / "known.txt"
    listed = write_list(tmp_path / "train.txt", trained, rng, pairs=900, itself=3)
    with listed.open("a") as more:
        more.write("none.png\tperson 06/1.png\t1\n")
    test = write_list(tmp_path / "test.txt", range(5), rng, pairs=60)
    known.write_text(listed.read_text())
    arguments = [
        "siamese", "--pairs", str(listed), "--root", str(people), "--out", str(tmp_path / "out"),
        "--people", "32", "--steps", "40", "--every", "10", "--rate", "3e-3", "--threads", "1",
        "--loss", loss, "--schedule", "plateau",
    ]  # fmt: skip
    assert train.main([*arguments, "--test", str(known)]) == 1
    assert "no pairs of both kinds are left" in capsys.readouterr().err
    test.write_text(test.read_text() + "person 00/0.png\tperson 06/0.png\t0\n")
    assert train.main([*arguments, "--test", str(test)]) == 0
    said = capsys.readouterr().err
    assert "none.png cannot be read" in said and "1 of 61 pairs of --test show a picture" in said
    report = json.loads((tmp_path / "out" / "siamese.json").read_text())
    assert report["pairs_of_one_file_left_out"] == 3 and report["test.pairs"] == 60
    assert 400 < report["pairs"] + report["pairs_held_out"] < 900  # some lie across
    assert report["held_out.eer.after"] <= report["held_out.eer.before"]
    kept = "after" if report["step_kept"] else "before"
    for name in ("f1", "accuracy"):
        assert report[f"test.{kept}.{name}"] >= report[f"test.before.{name}"] > 0.5
    curves = json.loads((tmp_path / "out" / "test.json").read_text())
    assert max(curves["before"]["f1"]) <= report["test.before.f1"] + 1e-5
    assert (tmp_path / "out" / "test.png").stat().st_size > 5000


def test_triplets_of_a_list_are_what_its_lines_say(rng):
    index = np.array([[0, 1], [2, 3], [1, 4], [5, 2], [6, 7]])
    same = np.array([True, True, False, False, False])
    files = [Path(f"{i}.png") for i in range(8)]
    listed = siamese_pairs.Listed(np.zeros((8, 1, 1, 3), np.uint8), files, index, same, 0)
    assert listed.people().tolist() == [0, 0, 1, 1, 2, 3, 4, 5]
    course = siamese_pairs.PairCourse(
        listed, np.ones(8, bool), size=20, loss="triplet", margin=0.2, seed=1
    )
    told = {tuple(sorted(t)) for t in course.at(3).reshape(3, -1).T.tolist()}
    assert told == {(0, 1, 4), (2, 3, 5)}
    rows = course.at(3)
    np.testing.assert_array_equal(rows, course.at(3))
    anchor, positive, negative = rows.reshape(3, -1)
    assert (listed.people()[anchor] == listed.people()[positive]).all()
    assert (listed.people()[anchor] != listed.people()[negative]).all()


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_list_of_pairs_teaches_a_head_what_does_not_matter(rng, loss, schedule):
    """Embeddings with directions that have nothing to do with who it is."""
    person = np.repeat(np.arange(60), 6)
    rows = rng.standard_normal((60, 16))[person] + 0.3 * rng.standard_normal((360, 16))
    rows[:, :4] = 3 * rng.standard_normal((360, 4))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    index = rng.integers(0, 360, (6000, 2))
    index[::2, 1] = index[::2, 0] // 6 * 6 + rng.integers(0, 6, 3000)
    index = index[index[:, 0] != index[:, 1]]
    same = person[index[:, 0]] == person[index[:, 1]]
    files = [Path(f"{i}.png") for i in range(360)]
    listed = siamese_pairs.Listed(np.zeros((360, 1, 1, 3), np.uint8), files, index, same, 0)
    held = siamese_pairs.hold_out(listed)
    judged = listed.among(held)
    course = siamese_pairs.PairCourse(listed, ~held, size=64, loss=loss, margin=0.5, seed=1)
    inputs = SimpleNamespace(embedder=True, tensor=torch.from_numpy, varied=lambda part, rng: part)
    network = torch.nn.Linear(16, 16, bias=False)
    torch.nn.init.eye_(network.weight)
    args = SimpleNamespace(
        rate=1e-2, loss=loss, steps=80, every=20, patience=5, seed=1, init=None, schedule=schedule
    )

    def judge():
        cosines = siamese_pairs.scores(siamese.embed(network, inputs, rows), judged[0])
        return equal_error_rate(cosines, judged[1]), 0.0

    before = judge()[0]
    outcome = siamese.fit(network, inputs, course, rows, judge, args)
    assert before > 0.2 and outcome.step > 0
    network.load_state_dict(outcome.state)
    assert judge()[0] < 0.6 * before


def test_a_list_that_cannot_be_trained_on_says_why(people, tmp_path, patterns, capsys):
    file = tmp_path / "list.txt"
    lines = {
        "a b": "expected two pictures",
        "person 00/0.png\tperson 00/1.png\t1": "expected some of each",
        "person 00/0.png\tperson 00/1.png\t1\nperson 00/0.png\tperson 01/1.png\t0": "longer list",
    }
    for text, message in lines.items():
        file.write_text(text + "\n")
        out = ["--root", str(people), "--out", str(tmp_path / "out")]
        assert train.main(["siamese", "--pairs", str(file), *out]) == 1
        assert message in capsys.readouterr().err


def test_pictures_are_varied_for_a_whole_network(rng):
    crops = np.full((6, 112, 112, 3), 128, np.uint8)
    crops[:, :, :40] = 20
    varied = siamese_pairs.vary(crops, np.random.default_rng(1))
    assert varied.shape == crops.shape and varied.dtype == np.uint8
    again = siamese_pairs.vary(crops, np.random.default_rng(1))
    np.testing.assert_array_equal(varied, again)
    assert len({v.tobytes() for v in varied}) == 6
    dark_left = varied[:, :, :30].mean((1, 2, 3)) < varied[:, :, -30:].mean((1, 2, 3))
    assert 0 < dark_left.sum() < 6  # some are mirrored


def test_the_gate_keeps_the_pretrained_state_when_it_is_better(monkeypatch):
    inputs = type("Inputs", (), {"embedder": None, "of": lambda self, x: x,
                                 "tensor": lambda self, x: torch.from_numpy(x)})()  # fmt: skip
    images = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 3]]
    pairs = (
        np.array([[0, 1], [0, 4], [2, 3], [2, 5]]),
        np.array([True, False] * 2),
        np.array([0, 0, 1, 1]),
    )
    monkeypatch.setattr(siamese, "read_lfw", lambda root: (images, *pairs))
    network = torch.nn.Linear(4, 4, bias=False)
    torch.nn.init.eye_(network.weight)
    ruined = siamese.Outcome({"weight": torch.ones(4, 4)}, 30, [])
    kept, figures = siamese.gate(network, inputs, ruined, None)
    assert kept.step == 0
    assert torch.equal(kept.state["weight"], torch.eye(4))
    assert figures["lfw.kept"] == figures["lfw.before"] == 100.0 > figures["lfw.after"]


def test_a_head_is_loaded_and_says_what_the_trained_one_said(people, tmp_path, rng):
    _, data = classes.open_data(people, tmp_path)
    base = Embedder.load("mobilefacenet-edge", runtime="onnxruntime", threads=1)
    head = torch.nn.Linear(base.size, 32, bias=False)

    def embed(images):
        rows = base(np.ascontiguousarray(images)) @ head.weight.detach().numpy().T
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    held = np.arange(len(data.identity))
    found = measure(data, embed, held, "held-out people")
    made = siamese_onnx.ship(tmp_path / "match.onnx", base.card, head, found)
    loaded = Embedder.load(tmp_path / "match.onnx", threads=1)
    images = np.asarray(data.images[:5])
    assert loaded.size == 32 and np.abs(loaded(images) - embed(images)).max() < 1e-5
    assert loaded.card.threshold == made.threshold and "held-out people" in made.derivation
    assert loaded.card.digest != base.card.digest and loaded.card.fusion is None


def test_a_whole_network_is_loaded_and_says_what_it_said(people, tmp_path):
    _, data = classes.open_data(people, tmp_path)
    torch.manual_seed(0)
    network = InceptionResNetV1(embedding=16).eval()

    def embed(images):
        with torch.no_grad():
            rows = network(torch.from_numpy(to_input(np.asarray(images)))).numpy()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    held = np.arange(0, len(data.identity), 3)
    found = measure(data, embed, held, "held-out people")
    siamese_onnx.ship(tmp_path / "match.onnx", None, network, found)
    loaded = Embedder.load(tmp_path / "match.onnx", threads=1)
    images = np.asarray(data.images[:3])
    assert np.abs(loaded(images) - embed(images)).max() < 1e-4


def test_a_head_folded_into_its_embedder_gives_the_same_embedding(tmp_path):
    torch.manual_seed(4)
    network = mobilefacenet.build("tiny")
    x = torch.rand(6, 3, 112, 112) * 255
    with torch.no_grad():
        for _ in range(3):
            network.train()(x)
    torch.save(
        {"network": "tiny", "phase": "end", "step": 1, "student": network.state_dict()},
        tmp_path / "a.pt",
    )
    weight = torch.randn(8, 8)
    siamese.fold_head(weight, tmp_path / "a.pt", tmp_path / "b.pt")
    other = mobilefacenet.build("tiny")
    other.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True)["student"])
    with torch.no_grad():
        expected = network.eval()(x) @ weight.T
        torch.testing.assert_close(other.eval()(x), expected, rtol=1e-3, atol=1e-3)


def test_inception_resnet_gives_a_picture_one_embedding_whatever_the_batch():
    torch.manual_seed(0)
    network = InceptionResNetV1(embedding=16)
    assert sum(p.numel() for p in InceptionResNetV1().parameters()) == 23_482_624
    x = torch.rand(3, 3, 107, 107) * 255
    network.train()
    freeze_norms(network)
    network.dropout.eval()
    with torch.no_grad():
        together, alone = network(x), network(x[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_the_card_is_measured_on_people_the_training_never_saw(people, tmp_path):
    assert run(people, tmp_path, "--epochs", "1") == 0
    checkpoint = tmp_path / "embedder.pt"
    held = torch.load(checkpoint, weights_only=True)["held_out"]
    data = open_pack(tmp_path / "pack")
    rows = card.held_rows(data, checkpoint)
    trained = classes.split_people(data).train
    assert len(held) == 4 and {data.names[i] for i in data.identity[rows]} == set(held)
    assert not set(np.flatnonzero(rows)) & set(trained)
    # The same without the checkpoint: there is one split.
    assert (card.held_rows(data, None) == rows).all()
    # Another pack, in which the same people have other numbers: the checkpoint knows them.
    fewer = tmp_path / "fewer"
    for name in [*held, "person 19", "person 18"]:
        source = people / name.split("/")[1] if "/" in name else people / name
        shutil.copytree(source, fewer / "people" / source.name)
    _, other = classes.open_data(fewer / "people", tmp_path / "b")
    renamed = [name.replace(held[0].split("/")[0], "people") for name in held]
    torch.save({"held_out": renamed}, tmp_path / "named.pt")
    measured = card.held_rows(other, tmp_path / "named.pt")
    assert {other.names[i] for i in other.identity[measured]} == set(renamed)
    torch.save({"held_out": ["people/nobody"]}, tmp_path / "named.pt")
    with pytest.raises(EdgefaceError, match="are not in the pack, 'people/nobody'"):
        card.held_rows(other, tmp_path / "named.pt")


def test_a_card_from_too_few_people_is_refused(people, tmp_path):
    small = tmp_path / "small"
    for name in sorted(p.name for p in people.iterdir())[:5]:
        shutil.copytree(people / name, small / name)
    assert run(small, tmp_path, "--epochs", "1") == 0
    checkpoint, pack = str(tmp_path / "embedder.pt"), str(tmp_path / "pack")
    assert to_onnx.main([checkpoint, "--out", str(tmp_path / "m.onnx")]) == 0
    with pytest.raises(EdgefaceError, match="3 people are held-out training identities, 4 are"):
        card.main([str(tmp_path / "m.onnx"), "--pack", pack])
    assert not (tmp_path / "m.json").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverged_run_ends_with_a_sentence_and_keeps_what_was_good(people, tmp_path, capsys):
    assert run(people, tmp_path, "--epochs", "1") == 0
    before = (tmp_path / "embedder.pt").read_bytes()
    assert run(people, tmp_path, "--epochs", "3", "--rate", "1e30", "--resume") == 1
    said = capsys.readouterr().err
    assert "diverged" in said and "--rate" in said
    assert (tmp_path / "embedder.pt").read_bytes() == before
    with training.Journal(tmp_path / "j.jsonl", 1) as journal:
        journal.add({"loss": 1.0})
        with pytest.raises(EdgefaceError, match="diverged"):
            journal.add({"loss": float("nan")})


def test_a_head_is_folded_into_no_other_embedder(people, tmp_path, patterns, capsys):
    torch.manual_seed(4)
    student = mobilefacenet.build("tiny").state_dict()
    file = tmp_path / "other.pt"
    torch.save({"network": "tiny", "phase": "end", "step": 1, "student": student}, file)
    with pytest.raises(EdgefaceError, match="is not the checkpoint of patterns"):
        match(people, tmp_path / "out", "--fold", str(file))
    assert not (tmp_path / "out" / "embedder.pt").exists()
    network, _ = to_onnx.load_network(file)

    def same(crops):
        with torch.no_grad():
            raw = network(torch.from_numpy(to_input(crops))).numpy()
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    images = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), np.uint8)
    siamese.check_same(file, same, images)  # its own is taken


def test_files_that_are_no_checkpoint_are_told_apart(people, tmp_path, patterns):
    assert match(people, tmp_path) == 0
    (tmp_path / "text.pt").write_text("nothing")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, what in {
        "siamese.pt": "is a head of `train siamese`.*--fold",
        "text.pt": "is not a checkpoint",
        "list.pt": "no checkpoint of this kind",
        "none.pt": "cannot be read",
    }.items():
        with pytest.raises(EdgefaceError, match=what):
            to_onnx.load_network(tmp_path / name)
