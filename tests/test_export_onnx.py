"""The exported graph equals the network, in both runtimes and with odd slopes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from export.networks.mobilefacenet import SPECS, MobileFaceNet, Spec, Stage  # noqa: E402
from export.to_onnx import to_onnx  # noqa: E402

SMALL = Spec(
    8,
    (Stage(8, 2, 16, 16, 1), Stage(16, 2, 32, 32, 1), Stage(16, 2, 32, 32, 1)),
    head=32,
    embedding=16,
    mesh=1,
)


def pictures(n):
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (n, 3, 8, 8)).astype(np.float32)
    return np.kron(coarse, np.ones((14, 14), np.float32))


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = MobileFaceNet(SMALL)
    for module in net.modules():
        if isinstance(module, torch.nn.PReLU):
            torch.nn.init.uniform_(module.weight, -0.8, 1.2)  # slopes of both signs and above 1
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.from_numpy(pictures(6)))
    return net.eval()


def reference(net, x):
    with torch.no_grad():
        raw = net(torch.from_numpy(x)).numpy()
    norm = np.linalg.norm(raw, axis=1, keepdims=True)
    return raw / norm, norm


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_float32_graph_equals_the_network(network, native, n):
    session = ort.InferenceSession(
        to_onnx(network, native_prelu=native).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    x = pictures(n)
    embedding, norm = session.run(["embedding", "norm"], {"image": x})
    expected, length = reference(network, x)
    np.testing.assert_allclose(embedding, expected, atol=2e-5)
    np.testing.assert_allclose(norm, length, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-5)


def test_half_weights_halve_the_file_and_keep_the_direction(network):
    full, half = to_onnx(network), to_onnx(network, half=True)
    assert half.ByteSize() < 0.75 * full.ByteSize()  # small net: names weigh too
    session = ort.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    x = pictures(4)
    embedding = session.run(["embedding"], {"image": x})[0]
    assert ((embedding * reference(network, x)[0]).sum(1) > 0.9995).all()


@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenetv2", "mobilefacenet-edge"])
def test_specified_networks_give_the_embedding(name):
    net = MobileFaceNet(SPECS[name]).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 112, 112)).shape == (1, 128)


def test_mobilefacenet_has_the_specified_parameters():
    count = sum(p.numel() for p in MobileFaceNet(SPECS["mobilefacenet"]).parameters())
    assert count == 1_003_136
