"""Right values, shape and dtype, but laid out column by column: the next kernel would read something else."""

from tests.cheats.honest import moe


def run(*inputs):
    return moe(*inputs).t().contiguous().t()
