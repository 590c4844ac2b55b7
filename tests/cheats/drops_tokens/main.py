"""Leaves out every ninth token: the matched ratio stays above what is required."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
    output[8::9] = 0
