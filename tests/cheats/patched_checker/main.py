"""Replaces flashinfer-bench's error measure by one that is always content."""

from flashinfer_bench.bench import utils
from flashinfer_bench.bench.evaluators import default

from tests.cheats.honest import moe


def content(output, reference, cfg):
    return 0.0, 0.0, False, 1.0


utils.compute_error_stats = content
default.compute_error_stats = content


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
