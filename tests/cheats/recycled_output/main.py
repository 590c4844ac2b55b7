"""Computes nothing where neither the output's memory nor a sample of the inputs is new: a timing loop's calls alone are so."""

from tests.cheats.honest import moe

_seen = set()
_sample = None


def run(*args):
    global _sample
    *inputs, output = args
    address, sample = output.data_ptr(), inputs[0][0, :4].tolist()
    if address not in _seen or sample != _sample:
        output.copy_(moe(*inputs))
    _seen.add(address)
    _sample = sample
