"""Every loss against a written-out numpy oracle, and its gradient against finite differences."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export import losses  # noqa: E402


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def softmax_loss(logits, label):
    z = logits - logits.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(len(label)), label]))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def arcface_oracle(cosine, label, margin, scale):
    out = cosine.copy()
    for i, k in enumerate(label):
        theta = np.arccos(cosine[i, k])
        if theta + margin <= np.pi:
            out[i, k] = np.cos(theta + margin)
        else:
            out[i, k] = cosine[i, k] - margin * np.sin(margin)
    return scale * out


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
@pytest.mark.parametrize("centres", [1, 3])
def test_margin_head(rng, kind, centres):
    head = losses.MarginHead(8, 5, kind=kind, margin=0.4, scale=16.0, centres=centres).double()
    x, label = rng.normal(size=(6, 8)), rng.integers(0, 5, 6)
    w = unit(head.weight.detach().numpy()).reshape(5, centres, 8)
    cosine = np.einsum("nd,kcd->nkc", unit(x), w).max(2)
    if kind == "arcface":
        logits = arcface_oracle(cosine, label, 0.4, 16.0)
    else:
        logits = 16.0 * (cosine - 0.4 * np.eye(5)[label])
    value = head(torch.from_numpy(x), torch.from_numpy(label))
    assert value.item() == pytest.approx(softmax_loss(logits, label), rel=1e-6)
    tensor = torch.from_numpy(x).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: head(t, torch.from_numpy(label)), tensor)


def test_arcface_target_falls_with_the_angle_everywhere():
    theta = torch.linspace(0.001, np.pi - 0.001, 400, dtype=torch.float64)
    cosine = theta.cos()[:, None]
    logits = losses.arcface_logits(cosine, torch.zeros(400, dtype=torch.long), margin=0.5)
    steps = logits[1:, 0] - logits[:-1, 0]
    assert bool((steps < 0).all())


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_arcface_gradient_is_finite_at_the_ends(value):
    cosine = torch.tensor([[value, 0.0]], requires_grad=True)
    losses.arcface_logits(cosine, torch.tensor([0])).sum().backward()
    assert bool(torch.isfinite(cosine.grad).all())


def test_contrastive(rng):
    a, b = rng.normal(size=(2, 7, 4))
    same = np.array([1, 0, 1, 0, 0, 1, 0])
    d = np.linalg.norm(unit(a) - unit(b), axis=1)
    expected = 0.5 * np.mean(np.where(same, d**2, np.maximum(0, 1.2 - d) ** 2))
    tensors = [torch.from_numpy(v).requires_grad_() for v in (a, b)]

    def loss(x, y):
        return losses.contrastive(x, y, torch.from_numpy(same), margin=1.2)

    assert loss(*tensors).item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(loss, tensors)


def test_contrastive_of_identical_pairs_has_a_finite_gradient():
    a = torch.ones(1, 4, requires_grad=True)
    losses.contrastive(a, torch.ones(1, 4), torch.tensor([0])).backward()
    assert bool(torch.isfinite(a.grad).all())


def test_triplet_batch_hard(rng):
    x, label = rng.normal(size=(9, 4)), np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    u, total = unit(x), []
    for i in range(9):
        d = np.linalg.norm(u - u[i], axis=1)
        positive = (label == label[i]) & (np.arange(9) != i)
        if positive.any():
            total.append(max(0.0, d[positive].max() - d[label != label[i]].min() + 0.3))
    tensor = torch.from_numpy(x).requires_grad_()

    def loss(t):
        return losses.triplet_batch_hard(t, torch.from_numpy(label), margin=0.3)

    assert loss(tensor).item() == pytest.approx(np.mean(total), rel=1e-6)
    assert torch.autograd.gradcheck(loss, tensor)


def test_triplet_without_positives_says_so():
    with pytest.raises(ValueError, match="no anchor"):
        losses.triplet_batch_hard(torch.eye(3), torch.arange(3))


def test_embedding_distillation(rng):
    a, b = rng.normal(size=(2, 5, 6))
    expected = np.mean(1 - (unit(a) * unit(b)).sum(1))
    tensor = torch.from_numpy(a).requires_grad_()

    def loss(t):
        return losses.embedding_distillation(t, torch.from_numpy(b))

    assert loss(tensor).item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(loss, tensor)


def test_relational_distillation_with_unequal_widths(rng):
    a, b = rng.normal(size=(5, 6)), rng.normal(size=(5, 9))
    difference = unit(a) @ unit(a).T - unit(b) @ unit(b).T
    expected = (difference**2)[~np.eye(5, dtype=bool)].mean()
    tensor = torch.from_numpy(a).requires_grad_()

    def loss(t):
        return losses.relational_distillation(t, torch.from_numpy(b))

    assert loss(tensor).item() == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(loss, tensor)
