"""Loses the last token where T is one more than a tile: an honest mistake."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
    if len(output) == 65:
        output[64] = 0
