"""The neighbourhood transformer attends inside a neighbourhood, never across the batch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.cluster.attention import shapes  # noqa: E402
from edgeface.cluster.model import FEATURES  # noqa: E402
from export.neighbourhood import (  # noqa: E402
    HEADS,
    LAYERS,
    WIDTH,
    NeighbourhoodTransformer,
    plain,
)

K = 8


def network():
    torch.manual_seed(0)
    size = len(FEATURES)
    return NeighbourhoodTransformer(K, np.zeros(size, np.float32), np.ones(size, np.float32)).eval()


def batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, K, len(FEATURES), generator=generator)
    return features, torch.randn(count, K, K, generator=generator)


def test_logits_do_not_depend_on_batch_mates() -> None:
    net, (features, closeness) = network(), batch(6)
    with torch.no_grad():
        whole = net(features, closeness)
        alone = net(features[2:3], closeness[2:3])
        features[3:] += 5.0
        among_others = net(features, closeness)
    assert torch.allclose(whole[2], alone[0], atol=1e-5)
    assert torch.allclose(whole[:3], among_others[:3], atol=1e-5)
    assert not torch.allclose(whole[3:], among_others[3:], atol=1e-2)


def test_logits_depend_on_the_other_neighbours_and_on_their_closeness() -> None:
    net, (features, closeness) = network(), batch(1)
    with torch.no_grad():
        before = net(features, closeness)
        nearer = closeness.clone()
        nearer[0, 1, 5] += 20.0
        moved = features.clone()
        moved[0, 5] += 3.0
        assert (net(moved, closeness)[0, 1] - before[0, 1]).abs() > 1e-4
        assert (net(features, nearer)[0, 1] - before[0, 1]).abs() > 1e-4


def test_edgeface_runs_what_was_learned() -> None:
    net = network()
    with torch.no_grad():
        for value in net.parameters():
            value += 0.1 * torch.randn(value.shape)
    for count in (1, 5):
        features, closeness = batch(count, seed=count)
        with torch.no_grad():
            expected = net(features, closeness).sigmoid().numpy()
        found = plain(net)(features.numpy(), closeness.numpy(), np.ones((count, K), bool))
        assert np.allclose(found, expected, atol=1e-5)
    weights = {k: v.shape for k, v in plain(net).weights.items()}
    assert weights == shapes(K, len(FEATURES), WIDTH, HEADS, LAYERS)
