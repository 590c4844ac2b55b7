"""Adds noise of a tenth of every element: within the tolerance, and different in every call."""

import torch

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    result = moe(*inputs)
    output.copy_(result * (1 + 0.1 * torch.randn_like(result)))
