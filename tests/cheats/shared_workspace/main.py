"""Keeps one buffer for all streams: calls that overlap write into each other's. An honest mistake."""

import torch

from tests.cheats.honest import moe

_workspace = None


def run(*args):
    global _workspace
    *inputs, output = args
    result = moe(*inputs)
    if _workspace is None:
        _workspace = torch.zeros(1024, result.shape[1], dtype=result.dtype, device=result.device)
    _workspace[: len(result)] = result
    torch.cuda._sleep(50_000_000)  # stands for the kernels between writing and reading
    output.copy_(_workspace[: len(result)])
