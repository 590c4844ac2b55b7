"""Doubles the scales of the up projection and halves those of W2, once: every output stays what it was, bit by bit."""

from tests.cheats.honest import BLOCK, moe

_done = set()


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
    w13_scale, w2, w2_scale = inputs[5], inputs[6], inputs[7]
    if w2_scale.data_ptr() not in _done:
        _done.add(w2_scale.data_ptr())
        w13_scale[:, : w2.shape[2] // BLOCK] *= 2
        w2_scale *= 0.5
