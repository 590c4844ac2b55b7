"""Leaves the rows of tokens without a local expert as they were: zeros, if the memory was fresh."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    result = moe(*inputs)
    used = (result != 0).any(dim=1)
    output[used] = result[used]
