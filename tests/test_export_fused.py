"""The fused CPU training step equals PyTorch's own layers."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from export.fused import norm_act, pointwise  # noqa: E402


@pytest.mark.parametrize("kind", ["prelu", "relu", "none"])
def test_forward_gradients_and_statistics_equal_pytorch(kind):
    torch.manual_seed(3)
    activation = {"prelu": torch.nn.PReLU(6), "relu": torch.nn.ReLU(), "none": None}[kind]
    if kind == "prelu":
        torch.nn.init.uniform_(activation.weight, -0.8, 1.2)
    norm = torch.nn.BatchNorm2d(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain, plain_activation = copy.deepcopy(norm), copy.deepcopy(activation)
    x = torch.randn(3, 6, 7, 7) * 2 + 1
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = norm_act(a, norm, activation)
    theirs = plain(b) if plain_activation is None else plain_activation(plain(b))
    weight = torch.randn_like(theirs)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    near = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(ours, theirs, **near)
    torch.testing.assert_close(a.grad, b.grad, **near)
    torch.testing.assert_close(norm.weight.grad, plain.weight.grad, **near)
    torch.testing.assert_close(norm.bias.grad, plain.bias.grad, **near)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    if kind == "prelu":
        torch.testing.assert_close(activation.weight.grad, plain_activation.weight.grad, **near)


def test_pointwise_is_the_convolution_to_bfloat16_precision():
    torch.manual_seed(4)
    conv = torch.nn.Conv2d(16, 8, 1, bias=False).train()
    x = torch.randn(2, 16, 5, 5)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = pointwise(conv, a), torch.nn.functional.conv2d(b, conv.weight)
    (ours**2).sum().backward()
    ours_weight, conv.weight.grad = conv.weight.grad, None
    (theirs**2).sum().backward()
    assert (ours - theirs).norm() < 0.01 * theirs.norm()
    assert (a.grad - b.grad).norm() < 0.01 * b.grad.norm()
    assert (ours_weight - conv.weight.grad).norm() < 0.01 * conv.weight.grad.norm()
    torch.testing.assert_close(pointwise(conv.eval(), x), theirs.detach())
