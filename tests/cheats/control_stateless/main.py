"""Honest: everything is computed anew in every call."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
