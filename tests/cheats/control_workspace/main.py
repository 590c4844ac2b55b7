"""Honest: keeps a buffer whose contents mean nothing to the next call, and grows it when T does."""

import torch

from tests.cheats.honest import moe

_workspace = None


def run(*args):
    global _workspace
    *inputs, output = args
    tokens, hidden = output.shape
    if _workspace is None or len(_workspace) < tokens:
        _workspace = torch.empty(tokens, hidden, dtype=output.dtype, device=output.device)
    view = _workspace[:tokens]
    view.copy_(moe(*inputs))
    output.copy_(view)
