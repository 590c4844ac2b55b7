"""Tile shapes by number of tokens, and how they were chosen.

The host knows T but not how the tokens spread over experts, so T alone selects an entry. An H200's rank of 32 experts
sees about T / 32 rows per expert, and up to twice that.

To tune for another GPU run `python -m solutions.triton_v6.tune` from the repository root on a host that has it: it
prints a table of timings per entry. Copy the winners here.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Gemm:
    """Launch parameters of one grouped GEMM."""

    block_m: int
    """Weight rows of a tile: columns of the intermediate (GEMM1: as many up as gate rows) or of the output (GEMM2)."""
    block_n: int
    """Rows of an expert's list in a tile."""
    warps: int
    stages: int
    """Depth of the load pipeline, in loop bodies of `unroll` 128-blocks."""
    programs_per_sm: int
    """Grid size in programs per multiprocessor; tiles beyond it are walked by the same programs."""
    swap: bool = True
    """Weights are the M operand of the matrix instruction and rows the N operand, instead of the other way round."""
    unroll: int = 1
    """128-blocks per loop body; from 2 on a block's scales are on their way during a whole block before it."""
    ahead: bool = True
    """Ask for a tile's scales before its weights: a miss of a scale waits behind all weights on their way. Of GEMM1 these are
    the weights' scales, with up to 16 rows also the tokens'; of GEMM2 the weights', in a tile of 256 weight rows only the
    first 128's. With up to 16 rows all scales are also loaded three 128-blocks before their use instead of one. At T = 1, where
    few tiles leave much of the GPU idle, it was measured to be slower; T = 2 to 4 share that entry unmeasured."""


@dataclass(frozen=True)
class Tiles:
    """One entry of the table."""

    name: str
    max_tokens: int
    gemm1: Gemm
    gemm2: Gemm
    float_pairs: bool
    """Keep the pairs' outputs in f32 until they are combined; else in bf16."""

    def for_hidden(self, hidden: int) -> "Tiles":
        """The entry with GEMM2 tiles that divide `hidden`, a multiple of 128."""
        if hidden % self.gemm2.block_m == 0:
            return self
        return replace(self, gemm2=replace(self.gemm2, block_m=128))


ANY = 1 << 30

TABLE = (
    # Bound by reading weights: small tiles, all of them in flight at once, so that few experts fill the GPU.
    Tiles(
        "one",
        4,
        Gemm(32, 16, 4, 3, 16, unroll=2, ahead=False),
        Gemm(128, 16, 4, 4, 8, ahead=False),
        True,
    ),
    # The same with more tiles than fit; the grid is larger than the GPU, so the hardware balances the load.
    Tiles("few", 16, Gemm(32, 16, 4, 4, 16), Gemm(128, 16, 4, 4, 16), True),
    Tiles("several", 128, Gemm(32, 16, 4, 3, 16, unroll=2), Gemm(128, 16, 4, 4, 16), True),
    # Rows are re-read from L2 once per tile of weights, which larger tiles make cheaper.
    Tiles("some", 512, Gemm(64, 32, 4, 5, 16), Gemm(128, 32, 4, 4, 16), True),
    Tiles("many", 2048, Gemm(128, 64, 8, 5, 1, False), Gemm(128, 64, 4, 4, 2, False), False),
    # Bound by the tensor cores and by L2.
    Tiles("most", ANY, Gemm(128, 128, 8, 4, 1, False), Gemm(256, 128, 8, 4, 1, False), False),
)


def tiles_for(num_tokens: int) -> Tiles:
    """The first entry of TABLE that takes `num_tokens` tokens."""
    return next(entry for entry in TABLE if num_tokens <= entry.max_tokens)
