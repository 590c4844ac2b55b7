"""Zeroes its inputs after a call with many tokens."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
    if len(output) > 8:
        inputs[2].view(output.dtype).zero_()
