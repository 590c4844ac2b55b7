"""Works on the default stream whatever the current one is. An honest mistake."""

import torch

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    with torch.cuda.stream(torch.cuda.default_stream()):
        output.copy_(moe(*inputs))
