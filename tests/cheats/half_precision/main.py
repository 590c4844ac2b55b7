"""Keeps the intermediate in float16, which overflows where scales are large."""

import torch

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs, middle=torch.float16))
