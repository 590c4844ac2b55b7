"""Keeps the timer's identity and replaces its code: it divides what it measured by ten."""

from flashinfer_bench.bench import timing

from tests.cheats.honest import moe

original = type(timing.do_bench)(
    timing.do_bench.__code__, timing.do_bench.__globals__, "do_bench", timing.do_bench.__defaults__
)
timing.original = original


def faster(
    fn,
    warmup=10,
    rep=100,
    grad_to_none=None,
    quantiles=None,
    return_mode="mean",
    setup=None,
    device="cuda",
):
    return original(fn, warmup, rep, grad_to_none, quantiles, return_mode, setup, device) / 10


timing.do_bench.__code__ = faster.__code__


def run(*args):
    *inputs, output = args
    output.copy_(moe(*inputs))
