"""A foreign ONNX embedder becomes a model: its input found, its graph made plain and INT8, gated,
with a card, and without torch; what is no embedder is refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")
cv2 = pytest.importorskip("cv2")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeface.cohort import Cohort  # noqa: E402
from edgeface.embed import Embedder  # noqa: E402
from edgeface.errors import EdgefaceError  # noqa: E402
from export import adopt, qdq  # noqa: E402
from export.contract import Foreign, find, open_foreign, ways  # noqa: E402
from export.net import Net  # noqa: E402
from export.rewrite import feed, normalise, split_prelus, unit  # noqa: E402
from export.teachers import to_input  # noqa: E402

ROOT = Path(__file__).parents[1]
WIDTH = 24


def foreign_network(
    *, width: int = WIDTH, slopes: tuple[float, float] = (-0.3, 0.9)
) -> onnx.ModelProto:
    """A small network as others write them: batch normalisations apart, PReLU, a residual sum,
    a reshape for one picture, and a linear layer with a normalisation behind. It looks at red
    alone, cuts its input to -1..1 and takes one picture at a time."""
    rng = np.random.default_rng(6)
    weights: dict[str, np.ndarray] = {}
    nodes = []

    def node(kind: str, inputs: list[str], output: str, **more) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **more))
        return output

    def block(x: str, name: str, inside: int, out: int, size: int, *, group=1, **more) -> str:
        kernel = rng.normal(size=(out, inside // group, size, size)) / np.sqrt(inside * size)
        if name == "first":
            kernel[:, 1:] = 0.0
        weights[f"{name}.w"] = kernel.astype(np.float32)
        x = node("Conv", [x, f"{name}.w"], f"{name}.c", group=group, **more)
        values = rng.normal(size=(2, out)) * 0.1, rng.uniform(0.5, 1.5, (2, out))
        for key, value in zip("bmgv", (*values[0], *values[1]), strict=True):
            weights[f"{name}.{key}"] = value.astype(np.float32)
        names = [f"{name}.{key}" for key in "gbmv"]
        return node("BatchNormalization", [x, *names], f"{name}.n")

    def active(x: str, name: str, out: int) -> str:
        weights[f"{name}.s"] = rng.uniform(*slopes, (out, 1, 1)).astype(np.float32)
        return node("PRelu", [x, f"{name}.s"], f"{name}.p")

    weights["low"], weights["high"] = np.float32(-1), np.float32(1)
    x = node("Clip", ["data", "low", "high"], "cut")
    x = active(block(x, "first", 3, 16, 16, strides=[16, 16]), "first", 16)
    y = active(block(x, "deep", 16, 16, 3, group=16, pads=[1] * 4), "deep", 16)
    y = block(y, "thin", 16, 16, 1)
    x = node("Add", [x, y], "sum")
    x = active(block(x, "wide", 16, 32, 1), "wide", 32)
    weights["shape"] = np.array([1, -1])
    x = node("Reshape", [x, "shape"], "flat")
    weights["linear"] = (rng.normal(size=(32 * 49, width)) / 40).astype(np.float32)
    x = node("MatMul", [x, "linear"], "raw")
    for key, value in zip("gbmv", ((0.5, 1.5), (-0.1, 0.1), (-0.1, 0.1), (0.5, 1.5)), strict=True):
        weights[f"last.{key}"] = rng.uniform(*value, width).astype(np.float32)
    node("BatchNormalization", [x, *(f"last.{key}" for key in "gbmv")], "features")
    return finish(nodes, weights, "features")


def finish(nodes, weights, output: str, batch: int | str = 1, size: int = 112) -> onnx.ModelProto:
    shape = [batch, 3, size, size]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def face(person: int, rng: np.random.Generator) -> np.ndarray:
    """A person is a pattern in red around the middle grey; blue and green are noise."""
    base = np.random.default_rng(person).integers(20, 236, (7, 7))
    red = np.clip(base + rng.normal(0, 12, base.shape), 0, 255)
    small = np.dstack([rng.uniform(0, 256, (7, 7, 2)), red])
    small[:, 3:] = small[:, 3::-1]  # as alike as a face and its mirror image
    return np.kron(small.astype(np.uint8), np.ones((16, 16, 1), np.uint8))


def people(folder: Path, names: range, count: int = 3) -> Path:
    rng = np.random.default_rng(names.start)
    for number in names:
        (folder / f"p{number}").mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / f"p{number}" / f"{i}.png"), face(number, rng))
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> list[Path]:
    """Three folders of thirty people."""
    root = tmp_path_factory.mktemp("faces")
    return [people(root / n, range(s, s + 30)) for n, s in (("a", 0), ("b", 100), ("c", 200))]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Foreign:
    file = tmp_path_factory.mktemp("foreign") / "theirs.onnx"
    onnx.save(foreign_network(slopes=(-0.4, 1.8)), str(file))
    return open_foreign(file)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from export.__main__ import main
sys.exit(main(["adopt", *sys.argv[1:]]))
"""


def test_a_foreign_file_becomes_a_model_without_torch(faces, tmp_path):
    onnx.save(foreign_network(), str(tmp_path / "edgeface_xs.onnx"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEFACE_HOME": str(tmp_path)}
    words = [
        str(tmp_path / "edgeface_xs.onnx"),
        "--faces",
        *map(str, faces),
        "--terms",
        "theirs alone",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], env=env, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wants RGB -1..1" in done.stderr
    folder = tmp_path / "models"
    assert done.stdout.split() == [str(folder / f"edgeface_xs{s}.json") for s in ("", "-int8")]
    told = subprocess.run(
        [sys.executable, "-m", "edgeface.cli", "models", "list"], env=env, text=True,
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert "edgeface_xs-int8" in told
    original = open_foreign(tmp_path / "edgeface_xs.onnx")
    crops = np.stack([face(n, np.random.default_rng(n)) for n in range(6)])
    expected = original.embed(crops, ways(original)["RGB -1..1"])
    for name, runtime, least in (
        ("edgeface_xs", "onnxruntime", 0.9999),
        ("edgeface_xs-int8", "onnxruntime", 0.98),
        ("edgeface_xs-int8", "openvino", 0.98),
    ):
        embedder = Embedder.load(folder / f"{name}.onnx", runtime=runtime, threads=1)
        assert (embedder(crops) * expected).sum(1).min() > least, (name, runtime)
        assert embedder.card.license == "theirs alone"
        assert embedder.card.about["source"]["terms"] == "theirs alone"
        assert "90 of the user's faces" in embedder.card.derivation
        assert embedder.card.impostors is not None
        assert embedder.card.fusion is None
        # The name of a file that is known says nothing of what is inside.
        assert embedder.card.about["metrics"]["tar_at_far_1e-4"] > 0.5
        Cohort.load(folder / f"{name}.cohort.npz", model=embedder.card.digest)


def plain_rows(net: Net, crops: np.ndarray, *, half: bool = False) -> tuple[np.ndarray, np.ndarray]:
    unit(net)
    model = net.model(half=half, outputs=("embedding", "norm"))
    onnx.checker.check_model(model, full_check=True)
    (rows, norm), *more = qdq.run(model, to_input(crops), ["embedding", "norm"])
    assert not more
    return rows, norm


@pytest.mark.parametrize("way", ["RGB -1..1", "BGR 0..255", "RGB ImageNet's mean and deviation"])
def test_the_plain_graph_says_the_same_for_any_number_of_pictures(foreign, rng, way):
    crops = rng.integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    expected = foreign.embed(crops, ways(foreign)[way])
    net = Net(foreign.model, foreign.output, foreign.width)
    normalise(net)
    feed(net, ways(foreign)[way])
    kinds = [node.op_type for node in net.nodes]
    assert "BatchNormalization" not in kinds
    assert not {"MatMul", "Gemm"}.intersection(kinds)
    assert kinds.count("Conv") == 5
    split_prelus(net)
    kinds = [node.op_type for node in net.nodes]
    # Slopes above one turn the sign; of the first map the sum is a second reader.
    assert kinds.count("PRelu") == 1
    rows, norm = plain_rows(net, crops)
    assert (rows * expected).sum(1).min() > 1 - 1e-5
    assert (norm > 0).all()


@pytest.mark.parametrize(
    ("shape", "folds"),
    [((1,), True), ((5, 1, 1), True), ((1, 5, 1, 1), True), ((5,), False), ((1, 1, 1, 5), False)],
)
@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_only_what_every_pixel_of_a_channel_gets_alike_is_folded(rng, kind, shape, folds):
    value = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    weights = {"w": rng.normal(size=(5, 3, 1, 1)).astype(np.float32), "v": value}
    nodes = [
        helper.make_node("Conv", ["data", "w"], ["y"]),
        helper.make_node(kind, ["y", "v"], ["out"]),
    ]
    net = Net(finish(nodes, weights, "out", "n", 5), "out", 125)
    x = rng.normal(size=(2, 3, 5, 5)).astype(np.float32)
    before = run_once(net.model(), x)
    normalise(net)
    assert [node.op_type for node in net.nodes] == ["Conv", *([] if folds else [kind])]
    np.testing.assert_allclose(run_once(net.model(), x), before, atol=1e-5)


def run_once(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_rounding_stays_near_and_equalising_is_exact(foreign):
    rng = np.random.default_rng(3)
    crops = np.stack([face(n, rng) for n in range(40)])
    spec = ways(foreign)["RGB -1..1"]
    net = Net(foreign.model, foreign.output, foreign.width)
    normalise(net)
    feed(net, spec)
    expected = foreign.embed(crops, spec)
    images = to_input(crops)
    assert len(list(qdq.chains(net))) == 2
    model = qdq.quantized(net, images)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == len(qdq.maps(net))
    rows = np.concatenate([r for (r,) in qdq.run(model, images, ["embedding"])])
    assert (rows * expected).sum(1).min() > 0.99
    qdq.equalise(net, images)
    unit(net)
    rows = np.concatenate(
        [r for (r,) in qdq.run(net.model(outputs=("embedding",)), images, ["embedding"])]
    )
    assert (rows * expected).sum(1).min() > 1 - 1e-5


def single(
    kind: str, *, size: int = 112, value: float = 0.0, batch: int | str = "n"
) -> onnx.ModelProto:
    """Networks that are none."""
    weights = {"axes": np.array([2, 3])}
    mean = helper.make_node("GlobalAveragePool", ["data"], ["mean"])
    flat = helper.make_node("Flatten", ["mean"], ["flat"])
    if kind == "score":
        weights["w"] = np.ones((3, 1), np.float32)
        return finish(
            [mean, flat, helper.make_node("Gemm", ["flat", "w"], ["out"])], weights, "out", "n"
        )
    if kind == "map":
        weights["w"] = np.ones((8, 3, 1, 1), np.float32)
        return finish([helper.make_node("Conv", ["data", "w"], ["out"])], weights, "out", "n", size)
    weights["w"] = np.full((3, 8), value, np.float32)
    weights["one"] = np.ones(8, np.float32)
    nodes = [mean, flat, helper.make_node("Gemm", ["flat", "w", "one"], ["out"])]
    return finish(nodes, weights, "out", batch, size)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"this is a text", "is no ONNX model"),
        (b"", "is no ONNX model"),
        (single("rows", size=96), r"takes n×3×96×96; crops of 112×112"),
        (single("score"), r"has no embedding among its outputs \(out \(2, 1\)\)"),
        (single("map"), "has no embedding among its outputs"),
        (single("rows", value=0.0), "says the same of every face"),
        (single("rows", value=np.nan), "holds NaN or infinite values"),
        (single("rows", value=1.0, batch=4), "takes 4 pictures at a time"),
    ],
    ids=["text", "empty", "size", "score", "map", "constant", "nan", "batch"],
)
def test_what_is_no_embedder_is_refused(model, says, faces, tmp_path):
    file = tmp_path / "bad.onnx"
    file.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    words = [str(file), "--faces", str(faces[0]), "--terms", "any", "--out", str(tmp_path / "out")]
    with pytest.raises(EdgefaceError, match=says):
        adopt.main(words)
    assert not (tmp_path / "out").exists()


def test_faces_must_be_people_enough(tmp_path, monkeypatch):
    onnx.save(foreign_network(), str(tmp_path / "theirs.onnx"))
    words = [str(tmp_path / "theirs.onnx"), "--terms", "any", "--out", str(tmp_path / "out")]
    (tmp_path / "none").mkdir()
    with pytest.raises(EdgefaceError, match="no pictures there"):
        adopt.main([*words, "--faces", str(tmp_path / "none")])
    once = people(tmp_path / "once", range(5), 1)
    with pytest.raises(EdgefaceError, match="nobody has two pictures"):
        adopt.main([*words, "--faces", str(once)])
    few = people(tmp_path / "few", range(3))
    with pytest.raises(EdgefaceError, match="3 people are of the user's faces, 4 are the least"):
        adopt.main([*words, "--faces", str(few)])
    cv2.imwrite(str(tmp_path / "few" / "p0" / "large.png"), np.zeros((200, 150, 3), np.uint8))
    with pytest.raises(EdgefaceError, match=r"is 150×200, .*export align"):
        adopt.main([*words, "--faces", str(few)])
    assert not (tmp_path / "out").exists()


def test_terms_are_asked_for(tmp_path, faces, monkeypatch, capsys):
    onnx.save(foreign_network(), str(tmp_path / "theirs.onnx"))
    words = [str(tmp_path / "theirs.onnx"), "--faces", str(faces[0])]
    with pytest.raises(EdgefaceError, match=r"terms of theirs\.onnx are needed"):
        adopt.main([*words, "--out", str(tmp_path)])
    monkeypatch.delenv("EDGEFACE_HOME", raising=False)
    assert adopt.main(words) == 2
    assert "EDGEFACE_HOME" in capsys.readouterr().err
    assert adopt.main([*words[:2], str(tmp_path / "missing"), "--out", str(tmp_path)]) == 2
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: " for study ")
    args = adopt.arguments().parse_args(words)
    assert adopt.terms_of(args) == "for study"


SHARED_FILES = {
    "models/teachers/w600k_mbf.onnx": "RGB -1..1",
    "models/teachers/edgeface_xs.onnx": "RGB -1..1",
    "models/teachers/mobilefacenet_y1.onnx": "RGB 0..255",
    "models/peers/original_mobilefacenet/optim.onnx": "RGB -1..1",
}


@pytest.mark.parametrize("file", SHARED_FILES, ids=lambda file: Path(file).stem)
def test_known_foreign_embedders_say_the_same_when_plain(shared, file):
    if not (shared / file).exists():
        pytest.skip(f"{file} is not among the test data")
    folders = sorted((shared / "data" / "faces" / "celeba").iterdir())[:3]
    crops = np.stack([cv2.imread(str(f)) for d in folders for f in sorted(d.iterdir())[:1]])
    foreign = open_foreign(shared / file)
    spec = ways(foreign)[SHARED_FILES[file]]
    net = Net(foreign.model, foreign.output, foreign.width)
    normalise(net)
    feed(net, spec)
    split_prelus(net)
    rows, _ = plain_rows(net, crops, half=True)
    assert (rows * foreign.embed(crops, spec)).sum(1).min() > 0.9999


def test_what_a_known_foreign_embedder_wants_is_found(shared):
    """The original's file, which takes one picture at a time."""
    file = "models/peers/original_mobilefacenet/optim.onnx"
    folders = sorted((shared / "data" / "faces" / "celeba").iterdir())
    folders = [d for d in folders if len(list(d.iterdir())) > 2][:20]
    if not (shared / file).exists() or not folders:
        pytest.skip(f"{file} or labelled crops are not among the test data")
    crops = np.stack([cv2.imread(str(f)) for d in folders for f in sorted(d.iterdir())[:3]])
    spec, scores = find(open_foreign(shared / file), crops, np.repeat(np.arange(20), 3))
    assert next(iter(scores)) == SHARED_FILES[file]
    assert (spec.color, spec.range) == ("RGB", (-1.0, 1.0))
