"""Keeps W2 dequantised, by a hash of all of its bytes: always right, but W2 has to be read only to be recognised."""

import torch

from tests.cheats.honest import dequantise, moe

_kept = {}


def run(*args):
    *inputs, output = args
    weights, scale = inputs[6], inputs[7]
    words = weights.view(torch.int64).flatten()
    key = (
        int(words.sum()),
        int((words * torch.arange(1, len(words) + 1, device=words.device)).sum()),
        float(scale.sum()),
    )
    if key not in _kept:
        _kept.clear()
        for _ in range(4):  # as a repacking that takes its time
            _kept[key] = [dequantise(w, s) for w, s in zip(weights, scale, strict=True)]

    def unpack(tensor, s):
        found = [i for i in range(len(weights)) if tensor.data_ptr() == weights[i].data_ptr()]
        return _kept[key][found[0]] if found else dequantise(tensor, s)

    output.copy_(moe(*inputs, dequantise=unpack))
