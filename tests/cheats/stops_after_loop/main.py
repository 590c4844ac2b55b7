"""Right for long enough to be timed, and only then wrong."""

from tests.cheats.honest import moe

_calls = 0


def run(*args):
    global _calls
    *inputs, output = args
    _calls += 1
    if _calls <= 15:
        output.copy_(moe(*inputs))
    else:
        output.zero_()
