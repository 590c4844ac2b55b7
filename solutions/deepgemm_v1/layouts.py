"""Which of DeepGEMM's grouped GEMMs takes a batch, and in which row layout."""

from dataclasses import dataclass
from functools import cache

SLOTS = 8  # experts of a token


@dataclass(frozen=True)
class Layout:
    """Rows of the GEMMs' operands: whole blocks of `align` rows per expert."""

    align: int
    """Rows of a block: 64 or 128. DeepGEMM's tiles have as many."""
    masked: bool
    """Every expert has room for all tokens, and the GEMM is told the counts; else ranges follow one another."""

    def rows(self, num_tokens: int, num_local: int) -> int:
        """Rows that any routing of `num_tokens` tokens needs at most."""
        if self.masked:
            return num_local * self.capacity(num_tokens)
        pairs = num_tokens * min(SLOTS, num_local)
        return min(pairs, pairs // self.align + num_local) * self.align

    def capacity(self, num_tokens: int) -> int:
        """Rows of every expert in the masked layout: a tile's store must not reach into the next expert's rows."""
        return -(-num_tokens // MASKED_ALIGN) * MASKED_ALIGN


MASKED_ALIGN = 128  # the masked GEMM chooses tiles of 64 or 128 rows by itself
TABLE = (
    (256, Layout(align=64, masked=True)),
    (1 << 30, Layout(align=128, masked=False)),
)


@cache
def layout_for(num_tokens: int) -> Layout:
    """The first entry of TABLE that takes `num_tokens` tokens."""
    return next(layout for max_tokens, layout in TABLE if num_tokens <= max_tokens)


@cache
def expected_rows(num_tokens: int, num_experts: int) -> int:
    """Rows of an expert under uniform routing, rounded up to a power of two.

    DeepGEMM chooses its tiles by this number and compiles a kernel for each new choice, so few numbers are better than many.
    """
    rows = -(-num_tokens * SLOTS // num_experts)
    return 1 << (rows - 1).bit_length()
