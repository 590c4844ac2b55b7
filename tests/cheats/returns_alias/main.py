"""Hands out the same memory in every call: the last output changes under whoever kept it."""

import torch

from tests.cheats.honest import moe

_buffers = {}


def run(*inputs):
    result = moe(*inputs)
    buffer = _buffers.setdefault(tuple(result.shape), torch.empty_like(result))
    return buffer.copy_(result)
