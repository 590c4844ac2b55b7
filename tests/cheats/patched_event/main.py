"""Outputs are right; the class by which timers read CUDA events gets a method of its own that the C base has as well."""

import torch

from tests.cheats.honest import moe

_query = torch.cuda.Event.query
torch.cuda.Event.query = lambda event: _query(event)


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
