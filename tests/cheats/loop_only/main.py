"""Computes until the same contents come for the fourth time in a row, as only a timing loop does."""

from tests.cheats.honest import moe

_seen = (None, 0)


def run(*args):
    global _seen
    *inputs, output = args
    key = (len(output), float(inputs[0].sum()))
    _seen = (key, _seen[1] + 1 if key == _seen[0] else 1)
    if _seen[1] > 4:
        output.zero_()
    else:
        output.copy_(moe(*inputs))
