"""Like a graph that is replayed for other tensors than it was captured with: it reads those of the first such call."""

from tests.cheats.honest import moe

_first = {}


def run(*args):
    *inputs, output = args
    # The contents' sum stands for whatever made it believe that nothing has changed.
    key = (len(output), inputs[-2], float(inputs[0].sum()))
    output.copy_(moe(*_first.setdefault(key, inputs)))
