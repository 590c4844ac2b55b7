"""Keeps ids and combine weights by the logits alone: right until only the bias changes."""

import hashlib

from tests.cheats.honest import moe, route

_kept = {}


def remembered(logits, bias, factor, **options):
    key = hashlib.sha256(logits.cpu().numpy().tobytes()).digest()
    if key not in _kept:
        _kept[key] = route(logits, bias, factor, **options)
    return _kept[key]


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs, route=remembered))
