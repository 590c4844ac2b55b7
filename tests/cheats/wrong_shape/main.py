"""The right values in as many bytes, two rows for each token."""

from tests.cheats.honest import moe


def run(*inputs):
    output = moe(*inputs)
    return output.view(2 * len(output), -1)
