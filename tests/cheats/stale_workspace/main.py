"""Sizes its buffer for the first call and never again: rows beyond it are lost. An honest mistake."""

from tests.cheats.honest import moe

_workspace = None


def run(*args):
    global _workspace
    *inputs, output = args
    result = moe(*inputs)
    if _workspace is None:
        _workspace = result.new_zeros(result.shape)
    rows = min(len(_workspace), len(result))
    _workspace[:rows] = result[:rows]
    output[:rows] = _workspace[:rows]
    output[rows:] = 0
