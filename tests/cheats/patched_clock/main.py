"""Replaces Python's clock by one that runs at a tenth of the speed."""

import time

from tests.cheats.honest import moe

clock = time.perf_counter
time.perf_counter = lambda: clock() / 10


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
