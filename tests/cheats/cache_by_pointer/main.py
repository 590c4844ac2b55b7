"""Keeps outputs by the addresses of the inputs, and never looks at what lies there now."""

import torch

from tests.cheats.honest import moe

_outputs = {}


def run(*args):
    *inputs, output = args
    key = tuple(value.data_ptr() for value in inputs if isinstance(value, torch.Tensor))
    if key not in _outputs:
        _outputs[key] = (
            moe(*inputs),
            inputs,
        )  # the inputs stay, so that nobody else gets their addresses
    output.copy_(_outputs[key][0])
