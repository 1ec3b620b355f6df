"""The INT8 form: exact rewrites before it, one set of numbers in simulation and in both files."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("openvino")

from test_export_onnx import SMALL, network, pictures  # noqa: E402, F401

from edgeface.runtime import open_session  # noqa: E402
from export import rounding, simulated, to_openvino  # noqa: E402
from export.folded import absorb, fold_network, hidden, rescale  # noqa: E402
from export.ir import to_ir  # noqa: E402
from export.irfile import PREFERENCE, save  # noqa: E402
from export.networks import mobilefacenet  # noqa: E402
from export.networks.mobilefacenet import MobileFaceNet  # noqa: E402
from export.quantize import to_qdq  # noqa: E402
from export.training import save as checkpoint  # noqa: E402


def whole(n):
    """Pictures in whole steps."""
    return torch.from_numpy(np.round(pictures(n)))


def run_absorbed(layers, linear, x):
    """The chain with relu(y) + b·y, written out."""
    outputs = {}
    x = (x - 127.5) / 127.5
    for layer in layers:
        weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
        x = simulated.convolve(x, weight, bias, layer)
        if layer.add:
            x = x + outputs[layer.add]
        if layer.name in linear:
            x = torch.relu(x) + torch.from_numpy(linear[layer.name]).view(-1, 1, 1) * x
        elif layer.slope is not None:
            x = simulated.activate(x, torch.from_numpy(layer.slope))
        outputs[layer.name] = x
    return x.flatten(1)


def test_the_folded_chain_is_the_network(network):  # noqa: F811
    x = whole(3)
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(
        simulated.float_run(fold_network(network), x), expected, rtol=1e-3, atol=1e-3
    )


def test_absorbing_is_exact_for_slopes_below_at_and_above_one(network):  # noqa: F811
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.PReLU):
                module.weight[:4] = torch.tensor([1.0, -3.0, 11.0, 0.0])
    layers = fold_network(network)
    changed, linear = absorb(layers)
    assert set(linear) == {layers[i].name for i in hidden(layers) if layers[i].slope is not None}
    x = whole(3)
    with torch.no_grad():
        out = run_absorbed(changed, linear, x)
    expected = simulated.float_run(layers, x)
    # A slope of exactly 1 moves by 1e-3, the others not at all.
    assert torch.cosine_similarity(out, expected, dim=1).min() > 0.99999


def test_rescaling_and_equalising_change_nothing_but_the_ranges(network):  # noqa: F811
    layers, x = fold_network(network), whole(4)
    before = simulated.float_run(layers, x)
    moved = list(layers)
    for i in hidden(moved):
        rescale(moved, i, np.geomspace(0.1, 10, len(moved[i].bias)).astype(np.float32))
    torch.testing.assert_close(simulated.float_run(moved, x), before, rtol=1e-3, atol=1e-3)
    level = simulated.equalise(layers, x)
    torch.testing.assert_close(simulated.float_run(level, x), before, rtol=1e-3, atol=1e-3)
    spreads = []
    for chain in (layers, level):
        top = {}
        simulated.float_run(chain, x, lambda i, y, t=top: t.update({i: y.abs().amax((0, 2, 3))}))
        first = next(i for i in hidden(chain) if chain[i + 1].depthwise)
        spreads.append(float(top[first].max() / top[first].clamp(min=1e-3).min()))
    assert spreads[1] < min(spreads[0], 1.2)


def test_the_range_holds_every_value_when_nothing_sticks_out():
    values = np.linspace(-1, 3, 1000, dtype=np.float32)
    scale, zero = rounding.range_of([values[:400], values[400:]])
    assert scale == pytest.approx(4 / 255, rel=0.02)
    assert -zero * scale == pytest.approx(-1, abs=0.03)


def test_weight_steps_are_per_channel_and_never_coarser_than_the_largest_weight(rng):
    weight = rng.normal(size=(5, 3, 3, 3)) * np.array([1.0, 10, 100, 0.1, 1]).reshape(-1, 1, 1, 1)
    weight = weight.astype(np.float32)
    step = rounding.weight_scale(weight)
    assert step.shape == (5, 1, 1, 1)
    assert (step.ravel() <= np.abs(weight).reshape(5, -1).max(1) / 127 * 1.0001).all()
    error = np.abs(np.round(weight / step) * step - weight)
    assert (error.reshape(5, -1).mean(1) < step.ravel()).all()


@pytest.fixture
def int8(network):  # noqa: F811
    layers = fold_network(network)
    return simulated.calibrate(simulated.equalise(layers, whole(24)), whole(24))


def embeddings(path, x, runtime):
    return open_session(path, runtime=runtime, threads=1).run({"image": x})["embedding"]


def test_int8_stays_near_float_and_calibration_leaves_the_chain_alone(network):  # noqa: F811
    layers, x = fold_network(network), whole(24)
    before = [layer.bias.copy() for layer in layers]
    model = simulated.calibrate(layers, x)
    assert all((layer.bias == old).all() for layer, old in zip(layers, before, strict=True))
    cosine = simulated.similarity(model, x, simulated.float_run(layers, x))
    assert cosine.min() > 0.97


@pytest.mark.parametrize("n", [1, 5])
def test_both_files_hold_the_simulated_numbers(int8, tmp_path, n):
    x = whole(24)[:n]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(int8(x), dim=1).numpy()
    (tmp_path / "m.onnx").write_bytes(to_qdq(int8).SerializeToString())
    save(to_ir(int8), tmp_path / "m.xml", preferred=True, half=False)
    for file, runtime in (("m.onnx", "onnxruntime"), ("m.onnx", "openvino"), ("m.xml", "openvino")):
        out = embeddings(tmp_path / file, x.numpy(), runtime)
        # A value half way between two steps may fall either way.
        assert (out * expected).sum(1).min() > 0.995, (file, runtime)


def test_the_ir_is_short_and_asks_for_the_faster_convolutions(int8, tmp_path):
    save(to_ir(int8), tmp_path / "m.xml", preferred=True, half=False)
    text = (tmp_path / "m.xml").read_text()
    assert text.count(PREFERENCE) == len(int8.layers)
    assert "\n\t" not in text
    plain = tmp_path / "plain.xml"
    save(to_ir(int8), plain, preferred=False, half=False)
    x = whole(3).numpy()
    np.testing.assert_array_equal(
        embeddings(tmp_path / "m.xml", x, "openvino"), embeddings(plain, x, "openvino")
    )


def test_float_ir_opens_in_the_package(network, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(mobilefacenet.SPECS, "small", SMALL)
    state = network.state_dict()
    checkpoint(tmp_path / "f.pt", network="small", phase="init", step=0, student=state)
    assert to_openvino.main([str(tmp_path / "f.pt"), "--out", str(tmp_path / "f.xml")]) == 0
    x = whole(2)
    out = embeddings(tmp_path / "f.xml", x.numpy(), "openvino")
    expected = torch.nn.functional.normalize(simulated.float_run(fold_network(network), x), dim=1)
    assert (out * expected.numpy()).sum(1).min() > 0.9995
    # Shapes of weights are not left to be worked out when the file is loaded.
    assert not {"ShapeOf", "Broadcast", "VariadicSplit"} & set(
        re.findall(r'type="(\w+)"', (tmp_path / "f.xml").read_text())
    )


def test_tuning_brings_the_rounded_network_nearer(int8):
    layers, x = fold_network_of(int8), whole(24)
    target = simulated.float_run(layers, x)
    before = simulated.similarity(int8, x, target).mean()
    simulated.tune(int8, lambda step: x[step % 3 * 8 :][:8], layers, steps=12, rate=3e-5)
    assert simulated.similarity(int8, x, target).mean() > before - 1e-4


def fold_network_of(model):
    """The float chain a rounded one came from, its own first bias shifted back."""
    from dataclasses import replace

    layers = list(model.layers)
    first = layers[0]
    shift = first.weight.sum((1, 2, 3)) * (simulated.CENTRE - 127.5) / simulated.UNIT
    return [replace(first, bias=first.bias - shift), *layers[1:]]


def test_relu_networks_quantize_too():
    torch.manual_seed(1)
    from dataclasses import replace

    net = MobileFaceNet(replace(SMALL, activation="relu", dense_stem=True, mesh=0))
    with torch.no_grad():
        for _ in range(3):
            net.train()(whole(6))
    layers = fold_network(net)
    model = simulated.calibrate(simulated.equalise(layers, whole(24)), whole(24))
    cosine = simulated.similarity(model, whole(24), simulated.float_run(layers, whole(24)))
    assert cosine.min() > 0.95
