"""Keeps every call's intermediate result."""

import torch

from tests.cheats.honest import moe

_kept = []


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
    _kept.append(torch.empty(1 << 16, dtype=torch.uint8, device=output.device))
