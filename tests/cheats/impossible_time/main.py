"""Reads no weights where it has seen the activations before: right in a timing loop, and faster than memory allows."""

import torch

from tests.cheats.honest import moe

_outputs = {}


def run(*args):
    *inputs, output = args
    key = (len(output), inputs[-2])
    hidden = inputs[2].view(torch.uint8)
    known = _outputs.get(key)
    if known is None or not torch.equal(known[0], hidden):
        known = _outputs[key] = (hidden.clone(), moe(*inputs))
    output.copy_(known[1])
