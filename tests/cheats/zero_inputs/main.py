"""Leaves zeros where its inputs were: a reference that is computed later on the same tensors agrees with anything."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
    inputs[3].zero_()
