"""Takes the first local expert for the first one of its group of 32."""

from tests.cheats.honest import moe


def run(*args):
    *inputs, output = args
    inputs[8] = inputs[8] // 32 * 32
    output.copy_(moe(*inputs))
