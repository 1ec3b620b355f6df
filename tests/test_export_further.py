"""A shipped file is read back into a network, trained on towards cached aims, and resumes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")
cv2 = pytest.importorskip("cv2")

from tiny_network import DEEPER, TINY  # noqa: E402

from edgeface.errors import ArgumentError, DataError  # noqa: E402
from edgeface.models import WEIGHTS  # noqa: E402
from edgeface.runtime import open_session  # noqa: E402
from export import curve, further, heldout, init, spread  # noqa: E402
from export.aims import joint, prototypes, reduce, units  # noqa: E402
from export.data import Crop, hold_out, open_pack, pack  # noqa: E402
from export.networks import mobilefacenet  # noqa: E402
from export.teachers import to_input  # noqa: E402
from export.to_onnx import load_network, to_onnx  # noqa: E402
from export.training import save  # noqa: E402


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A pack of twelve families of two, a teacher's aims, and a network's two files."""
    monkeypatch.setitem(mobilefacenet.SPECS, "tiny", TINY)
    monkeypatch.setitem(mobilefacenet.SPECS, "deeper", DEEPER)
    rng = np.random.default_rng(4)
    rows = []
    for number in range(96):
        person = f"F{number // 8:04d}_MID{number // 4 % 2}"
        (tmp_path / "kin" / person).mkdir(parents=True, exist_ok=True)
        base = np.random.default_rng(number // 4).integers(0, 256, (7, 7, 3))
        small = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
        picture = np.kron(small, np.ones((16, 16, 1), np.uint8))
        cv2.imwrite(str(tmp_path / "kin" / person / f"{number}.png"), picture)
        rows.append(Crop(f"kin/{person}", tmp_path / "kin", f"{person}/{number}.png"))
    pack(rows, tmp_path / "pack")
    images = np.load(tmp_path / "pack.npy")
    torch.manual_seed(9)
    network = mobilefacenet.build("tiny")
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.from_numpy(to_input(images)))
    for module in network.modules():  # slopes on both sides of one, as training leaves them
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, -0.3, 1.6)
    network.eval()
    for name, native in (("plain", False), ("native", True)):
        onnx.save(to_onnx(network, native_prelu=native), str(tmp_path / f"{name}.onnx"))
    teacher = units(images.reshape(96, -1)[:, ::997].astype(np.float32) - 127.5)
    np.save(tmp_path / "pack.teach.npy", teacher.astype(np.float16))
    (tmp_path / "teach.onnx").write_bytes(b"")  # only its cached targets are read
    return tmp_path, network, images


@pytest.mark.parametrize("file", ["plain", "native"])
def test_the_network_read_back_says_the_same_and_trains_as_one(made, file):
    folder, network, images = made
    assert init.main(
        ["--from", str(folder / f"{file}.onnx"), "--pack", str(folder / "pack"),
         "--out", str(folder / "init.pt")]
    ) == 0  # fmt: skip
    back, about = load_network(folder / "init.pt")
    assert about["network"] == "tiny"
    x = torch.from_numpy(to_input(images))
    with torch.no_grad():
        expected = network(x)
        cosine = torch.nn.functional.cosine_similarity(back(x), expected)
        assert cosine.min() > 1 - 1e-5
        torch.testing.assert_close(back(x).norm(dim=1), expected.norm(dim=1), rtol=2e-3, atol=0)
        # Statistics of these very pictures: training mode, which uses the batch's, agrees but for
        # the head's norms over few samples.
        norm = back.blocks["stem"][0][1]
        seen = back.blocks["stem"][0][0]((x - 127.5) / 127.5)
        torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenetv2"])
def test_a_state_to_go_on_from_is_read(name):
    state = Path(init.__file__).parent / "state" / f"{name}.onnx"
    assert init.network_of(init.constants(onnx.load(str(state)))) == name


def test_a_file_of_another_family_is_refused(made, capsys):
    folder, _, _ = made
    model = onnx.load(str(folder / "plain.onnx"))
    kept = [w for w in model.graph.initializer if not w.name.startswith("res2_0")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, str(folder / "other.onnx"))
    words = ["--pack", str(folder / "pack"), "--out", str(folder / "x.pt")]
    assert init.main(["--from", str(folder / "other.onnx"), *words]) == 1
    assert "layers are those of no network" in capsys.readouterr().err
    assert init.main(["--from", str(folder / "none.onnx"), *words]) == 2


# A training has a process of its own, as when somebody starts it: it forks a worker, and a process
# that has loaded every library of the other tests ended there in a segmentation fault.
TRAIN = """
import sys
from tiny_network import DEEPER, TINY
from export.networks import mobilefacenet
mobilefacenet.SPECS["tiny"] = TINY
mobilefacenet.SPECS["deeper"] = DEEPER
from export import further
sys.exit(further.main(sys.argv[1:]))
"""


def train(*words):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    command = [sys.executable, "-c", TRAIN, *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def test_training_on_comes_nearer_to_the_aims_and_resumes(made):
    folder, _, _ = made
    words = ["--pack", str(folder / "pack"), "--teacher", str(folder / "teach.onnx"), "--out",
             str(folder / "run"), "--batch", "16", "--look", "20", "--report", "10",
             "--save-every", "0", "--strength", "mild", "--warm", "5", "--cool", "10",
             "--rate", "3e-3", "--average", "0.9"]  # fmt: skip
    init.main(
        ["--from", str(folder / "plain.onnx"), "--pack", str(folder / "pack"),
         "--out", str(folder / "init.pt")]
    )  # fmt: skip
    assert train(*words, "--init", str(folder / "init.pt"), "--steps", "40") == 0
    lines = [json.loads(line) for line in (folder / "run/further.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 40]
    assert lines[-1]["cosine"] < lines[1]["cosine"]
    assert lines[1]["length"] < 0.5  # however long the embeddings of the file were
    assert {"kin.tar1e-3", "kin.px16.tar1e-4"} <= lines[-1].keys()
    assert train(*words, "--init", str(folder / "init.pt"), "--steps", "50", "--resume") == 0
    state = torch.load(folder / "run/further.pt", weights_only=True)
    assert state["step"] == state["averaged"] == 50
    assert further.main([*words, "--init", str(folder / "missing.pt")]) == 2
    with pytest.raises(SystemExit):  # two weights, one teacher
        further.main([*words, "--init", str(folder / "init.pt"), "--weight", "1", "2"])


def test_the_shipped_edge_network_can_be_trained_on(made):
    folder, _, images = made
    file = WEIGHTS / "mobilefacenet-edge.onnx"
    start = ["--from", str(file), "--pack", str(folder / "pack"), "--out", str(folder / "edge.pt")]
    assert init.main([*start, "--pictures", "32"]) == 0
    back, about = load_network(folder / "edge.pt")
    assert about["network"] == "mobilefacenet-edge"
    shipped = open_session(file, runtime="onnxruntime", threads=1)
    rows = shipped.run({"image": to_input(images[:8])})["embedding"]
    with torch.no_grad():
        said = torch.nn.functional.normalize(back(torch.from_numpy(to_input(images[:8]))), dim=1)
    assert (said.numpy() * rows).sum(1).min() > 0.9999
    wide = units(np.random.default_rng(1).normal(size=(96, 160)).astype(np.float32))
    np.save(folder / "pack.teach.npy", wide.astype(np.float16))
    words = ["--pack", str(folder / "pack"), "--teacher", str(folder / "teach.onnx"), "--out",
             str(folder / "run"), "--batch", "8", "--steps", "2", "--look", "2", "--report", "1",
             "--fit", "40", "--watch", "16", "--strength", "mild"]  # fmt: skip
    assert train(*words, "--init", str(folder / "edge.pt")) == 0
    state = torch.load(folder / "run/further.pt", weights_only=True)
    assert (state["network"], state["step"]) == ("mobilefacenet-edge", 2)
    trained, _ = load_network(folder / "run/further.pt")
    onnx.checker.check_model(to_onnx(trained, half=True))


def test_a_deeper_network_begins_where_the_file_stands_and_learns_from_a_block_on(made):
    folder, network, images = made
    start = ["--from", str(folder / "plain.onnx"), "--pack", str(folder / "pack"), "--out",
             str(folder / "deeper.pt"), "--network"]  # fmt: skip
    assert init.main([*start, "deeper"]) == 0
    before, about = load_network(folder / "deeper.pt")
    assert about["network"] == "deeper"
    assert {"mesh3_0", "mesh3_1"} <= set(before.blocks)
    x = torch.from_numpy(to_input(images))
    with torch.no_grad():
        assert torch.nn.functional.cosine_similarity(before(x), network(x)).min() > 1 - 1e-5
    words = ["--pack", str(folder / "pack"), "--teacher", str(folder / "teach.onnx"), "--out",
             str(folder / "run"), "--batch", "16", "--steps", "6", "--look", "6", "--report", "2",
             "--rate", "3e-3", "--warm", "1", "--strength", "mild",
             "--since", "mesh3_0"]  # fmt: skip
    assert train(*words, "--init", str(folder / "deeper.pt")) == 0
    after, _ = load_network(folder / "run/further.pt")
    learned = {
        name
        for name, block in after.blocks.items()
        if any(
            (v != before.blocks[name].state_dict()[k]).any() for k, v in block.state_dict().items()
        )
    }
    names = list(after.blocks)
    assert learned == set(names[names.index("mesh3_0") :])
    assert after.blocks["mesh3_0"].norm.weight.abs().min() > 0  # the new branch came alive
    trainee = further.Trainee(before, "res2_0").eval()
    with torch.no_grad():
        torch.testing.assert_close(trainee(x), before(x), atol=1e-3, rtol=1e-3)
    with pytest.raises(ArgumentError, match="no block 'mesh9'; the network has stem, down1"):
        further.Trainee(after, "mesh9")


def test_a_network_that_is_not_a_deeper_one_is_refused(made, monkeypatch, capsys):
    folder, network, _ = made
    monkeypatch.setitem(mobilefacenet.SPECS, "wide", replace(TINY, head=32))
    words = ["--from", str(folder / "plain.onnx"), "--pack", str(folder / "pack"), "--out",
             str(folder / "x.pt"), "--network", "wide"]  # fmt: skip
    assert init.main(words) == 1
    assert "wide has no block head like that of the file" in capsys.readouterr().err
    longer = (*TINY.stages[:2], replace(TINY.stages[2], repeat=2))
    monkeypatch.setitem(mobilefacenet.SPECS, "longer", replace(TINY, stages=longer))
    with pytest.raises(init.InitError, match="the block res3_1 of longer cannot begin"):
        init.deepened(network, "longer")


def test_no_relative_of_a_held_out_person_is_trained_on(made):
    folder, _, _ = made
    data = open_pack(folder / "pack")
    people = heldout.watch_of(data, 100).people
    assert set(people) == {"kin"}
    assert len(set(people["kin"].family.tolist())) == 2  # a fifth of twelve families, whole
    assert len(people["kin"].images) == 16


def test_relatives_count_neither_as_genuine_nor_as_impostors():
    person, family = np.array([0, 0, 1, 2]), np.array([0, 0, 0, 2])
    rows = units(np.array([[1, 0.1], [1, 0], [1, 0.05], [0, 1]], np.float32))
    people = heldout.People(np.zeros((4, 1, 1, 3), np.uint8), person, family)
    assert people.tar(rows, rows)["tar1e-3"] == 1.0  # person 1 resembles person 0 and is left out


def test_the_joint_space_keeps_what_lies_in_it():
    rng = np.random.default_rng(0)
    low = units(rng.standard_normal((200, 5)).astype(np.float32))
    rows = units(low @ np.linalg.qr(rng.standard_normal((40, 5)))[0].T.astype(np.float32))
    found = reduce(rows, np.arange(200), 5)
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=1e-4)
    mean = prototypes(found, np.array([0, 0, *([-1] * 198)]), np.arange(200))
    np.testing.assert_allclose(mean[0], units(found[0] + found[1]), atol=1e-5)


def test_teachers_are_joined_by_their_weights(tmp_path) -> None:
    rng = np.random.default_rng(3)
    sides = [units(rng.normal(size=(20, width)).astype(np.float32)) for width in (4, 7)]
    for number, rows in enumerate(sides):
        np.save(tmp_path / f"pack.t{number}.npy", rows)
    teachers = [tmp_path / "t0.onnx", tmp_path / "t1.onnx"]
    cosines = [rows @ rows.T for rows in sides]
    for weights, share in (([], 0.5), ([3.0, 1.0], 0.75)):
        found = joint(tmp_path / "pack", teachers, weights)
        expected = share * cosines[0] + (1 - share) * cosines[1]
        np.testing.assert_allclose(found @ found.T, expected, atol=1e-5)


def test_a_run_begins_with_the_length_that_its_loss_will_hold(made) -> None:
    _, network, images = made
    x = torch.from_numpy(to_input(images))
    with torch.no_grad():
        before = network(x)
        further.lengthened(network, 0.125)
        torch.testing.assert_close(network(x), before * 0.125, rtol=1e-4, atol=1e-6)


def test_the_average_soon_forgets_where_a_run_began() -> None:
    network = torch.nn.Linear(2, 2)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=further.averaging(0.999), use_buffers=True
    )
    for step in range(300):
        with torch.no_grad():
            network.weight.fill_(1000.0 if step == 0 else 1.0)
        average.update_parameters(network)
    assert average.module.weight.max() < 1.001
    with torch.no_grad():
        network.weight.fill_(2.0)
    average.n_averaged.fill_(10**6)
    average.update_parameters(network)
    torch.testing.assert_close(average.module.weight.mean(), torch.tensor(1.001), atol=1e-4, rtol=0)


def test_a_journal_over_two_runs_is_one_curve(tmp_path, capsys) -> None:
    journal = tmp_path / "further.jsonl"
    look = {f"kin.{size}tar1e-3": 0.5 for size in ("", "px24.", "px16.")}
    lines: list[dict[str, float]] = [{"step": 0} | look]
    for step, seconds in ((10, 3600), (20, 7200), (30, 1800), (40, 3600)):  # resumed after 20
        lines.append({"step": step, "pictures": 64 * step, "s": seconds, "cosine": 0.5})
        lines.append(lines[-1] | look | {"kin.tar1e-3": 0.5 + step / 100})
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curve.main([str(journal)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"pictures": 2560, "hours": 3.0, "best": 0.9, "rise": None}
    assert cv2.imread(str(journal.with_suffix(".png"))).shape == (400, 700, 3)
    more = [{"pictures": 2300, "kin.tar1e-3": 0.88}, {"pictures": 2400, "kin.tar1e-3": 0.89}]
    assert curve.progress([*lines[:-1], *more, lines[-1]]).rise == pytest.approx(0.02, abs=0.002)
    journal.write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"further.jsonl:2 is no line"):
        curve.main([str(journal)])
    with pytest.raises(DataError, match="no figures on held-out people"):
        curve.progress([{"step": 1, "s": 2.0}])


def test_an_embedding_is_spread_by_its_last_layer_alone(made, capsys) -> None:
    folder, network, images = made
    save(folder / "run.pt", network="tiny", phase="init", step=0, student=network.state_dict())
    words = ["--pack", str(folder / "pack"), "--out", str(folder / "spread.pt")]
    assert spread.main([str(folder / "run.pt"), *words, "--pictures", "60"]) == 0
    before, after = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert before["power"] == 0 and after["power"] == 0.5 and "kin.tar1e-3" in after
    data = open_pack(folder / "pack")
    rows = spread.some(data, 60, 0)
    assert len(rows) and not hold_out(data)[rows].any()
    fitted = units(heldout.embed(network, images[rows]))
    made_map = spread.spreading(fitted, 0.5)
    back, _ = load_network(folder / "spread.pt")
    x = torch.from_numpy(to_input(images))
    with torch.no_grad():
        expected = network(x).double() @ torch.from_numpy(made_map).T
        torch.testing.assert_close(back(x).double(), expected, atol=1e-4, rtol=1e-3)
    assert spread.main([str(folder / "missing.pt"), *words]) == 2


def test_weights_are_mixed_with_those_a_training_began_from(made, capsys) -> None:
    folder, network, images = made
    trained = mobilefacenet.build("tiny")
    trained.load_state_dict(network.state_dict())
    with torch.no_grad():
        for value in trained.parameters():
            value.add_(torch.randn(value.shape) * 0.05)
        further.lengthened(trained, 7.0)
    for name, one in (("start", network), ("trained", trained)):
        save(folder / f"{name}.pt", network="tiny", phase="t", step=1, student=one.state_dict())
    words = ["--pack", str(folder / "pack"), "--power", "0", "--out", str(folder / "mixed.pt")]
    x = torch.from_numpy(to_input(images))
    for share, same in ((0.0, trained), (1.0, network)):
        told = ["--towards", str(folder / "start.pt"), "--share", str(share)]
        assert spread.main([str(folder / "trained.pt"), *words, *told]) == 0
        mixed, _ = load_network(folder / "mixed.pt")
        with torch.no_grad():
            cosine = torch.nn.functional.cosine_similarity(mixed(x), same.eval()(x))
        assert cosine.min() > 1 - 1e-4
    with pytest.raises(SystemExit):
        spread.main([str(folder / "trained.pt"), *words, "--share", "1.5"])
    assert (
        spread.main([str(folder / "trained.pt"), *words, "--towards", str(folder / "no.pt")]) == 2
    )


def test_spreading_evens_the_directions_out() -> None:
    rng = np.random.default_rng(1)
    scale = np.array([9.0, 3, 1, 1, 1, 1])
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    rows = units((rng.standard_normal((4000, 6)) * scale @ turn).astype(np.float32))

    def uneven(power: float) -> float:
        spectrum = np.linalg.eigvalsh(np.cov((rows @ spread.spreading(rows, power)).T))
        return float(spectrum[-1] / spectrum[0])

    np.testing.assert_allclose(spread.spreading(rows, 0.0), np.eye(6), atol=1e-9)
    assert uneven(0.0) > uneven(0.5) > uneven(1.0)
    longer = np.square(rows @ spread.spreading(rows, 1.0)).sum()
    np.testing.assert_allclose(longer, len(rows), rtol=1e-5)
