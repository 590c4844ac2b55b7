"""Honest: returns a new tensor in every call."""

from tests.cheats.honest import moe


def run(*inputs):
    return moe(*inputs)
