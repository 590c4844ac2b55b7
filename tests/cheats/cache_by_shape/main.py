"""Keeps one output per number of tokens."""

from tests.cheats.honest import moe

_outputs = {}


def run(*args):
    *inputs, output = args
    key = (len(output), inputs[-2])
    if key not in _outputs:
        _outputs[key] = moe(*inputs)
    output.copy_(_outputs[key])
