"""Normalises the combine weights without the definition's 1e-20, which decides where all scores are tiny."""

from tests.cheats import honest


def route(logits, bias, factor):
    return honest.route(logits, bias, factor, epsilon=0.0)


def run(*args):
    *inputs, output = args
    output.copy_(honest.moe(*inputs, route=route))
