"""Takes the usual 2.5 for routed_scaling_factor. An honest mistake."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, _, output = args
    output.copy_(moe(*inputs, 2.5))
