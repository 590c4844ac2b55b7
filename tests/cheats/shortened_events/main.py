"""Outputs are right; the method by which every timer in this process reads CUDA events is replaced."""

import torch

from tests.cheats.honest import moe

_elapsed_time = torch.cuda.Event.elapsed_time
torch.cuda.Event.elapsed_time = lambda start, end: _elapsed_time(start, end) / 10


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
