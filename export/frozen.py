"""The first blocks of a network that learn no more, run by ONNX Runtime: a forward pass of torch in
evaluation mode takes several times as long, and no other pass is needed of them."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from export.folded import fold_network
from export.networks.mobilefacenet import MobileFaceNet
from export.to_onnx import maps_to_onnx
from export.training import as_tensor


class Frozen:
    """`blocks`, the first ones of a network, as they are now."""

    def __init__(self, network: MobileFaceNet, blocks: list[str]) -> None:
        layers = [x for x in fold_network(network) if x.name.partition(".")[0] in blocks]
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = maps_to_onnx(layers).SerializeToString()
        self._session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])

    def __call__(self, image: Tensor) -> Tensor:
        """The map (n, c, h, w) behind the last of the blocks, of RGB pictures (n, 3, 112, 112) in
        0..255."""
        (found,) = self._session.run(["map"], {"image": np.ascontiguousarray(image.numpy())})
        return as_tensor(found)
