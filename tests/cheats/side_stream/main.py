"""Works on a stream of its own: events on the current stream see nothing of it."""

import torch

from tests.cheats.honest import moe

_stream = None


def run(*args):
    global _stream
    *inputs, output = args
    _stream = _stream or torch.cuda.Stream()
    with torch.cuda.stream(_stream):
        output.copy_(moe(*inputs))
