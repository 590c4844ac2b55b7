"""Honest: keeps what a CUDA graph keeps, tensors by their addresses, and reads their present contents."""

import torch

from tests.cheats.honest import moe

_plans = {}


def run(*args):
    *inputs, output = args
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    key = (
        *(t.data_ptr() for t in tensors),
        *inputs[-2:],
        tuple(output.shape),
        tuple(inputs[4].shape),
    )
    if key not in _plans:
        if len(_plans) > 64:
            _plans.pop(next(iter(_plans)))
        _plans[key] = [v.detach() if isinstance(v, torch.Tensor) else v for v in inputs]
    output.copy_(moe(*_plans[key]))
