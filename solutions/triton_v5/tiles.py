"""Tile shapes by number of tokens, and how they were chosen.

The host knows T but not how the tokens spread over experts, so T alone selects an entry. An H200's rank of 32 experts
sees about T / 32 rows per expert, and up to twice that.

To tune for another GPU run `python -m solutions.triton_v5.tune` from the repository root on a host that has it: it
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
    prefetch: bool = False
    """GEMM2 only: bring a program's first weights into L2 before waiting for GEMM1; needs dependent launch."""


@dataclass(frozen=True)
class Tiles:
    """One entry of the table."""

    name: str
    max_tokens: int
    gemm1: Gemm
    gemm2: Gemm
    quantise: bool
    """Hand the intermediate over in f8 with a scale per 128 columns instead of bf16. Needs gemm1.block_m of 128."""
    parts: int
    """f8 parts that GEMM2 makes of a bf16 intermediate: 1, or 2 for bf16's accuracy."""
    float_pairs: bool
    """Keep the pairs' outputs in f32 until they are combined; else in bf16."""

    @property
    def granules(self) -> int:
        """Parts of a 128-block whose largest magnitudes GEMM1 leaves for GEMM2; 1 if it leaves a scale instead."""
        return 1 if self.quantise else 128 // self.gemm1.block_m

    def for_hidden(self, hidden: int) -> "Tiles":
        """The entry with GEMM2 tiles that divide `hidden`, a multiple of 128."""
        if hidden % self.gemm2.block_m == 0:
            return self
        return replace(self, gemm2=replace(self.gemm2, block_m=128))


ANY = 1 << 30
# Rows of small batches lose bf16's accuracy on their way into the tensor cores: 1 part is the faster choice. Over 1,280
# tokens at full size (results/2026-11-25-f8-intermediate) it keeps a matched ratio of at least 0.913 at rtol 0.2, atol 0.1
# (required: 0.85) and at least 0.941 at rtol 0.3, atol 1 (required: 0.9); 2 parts keep 0.991.
PARTS = 1

TABLE = (
    # Bound by reading weights: small tiles, all of them in flight at once, so that few experts fill the GPU.
    Tiles("one", 8, Gemm(32, 16, 4, 3, 16, unroll=2), Gemm(128, 16, 4, 4, 8), False, PARTS, True),
    # The same with more tiles than fit; the grid is larger than the GPU, so the hardware balances the load.
    Tiles(
        "few", 128, Gemm(32, 16, 4, 3, 16, unroll=2), Gemm(128, 16, 4, 4, 16), False, PARTS, True
    ),
    # Rows are re-read from L2 once per tile of weights, which larger tiles make cheaper.
    Tiles("some", 512, Gemm(64, 32, 4, 5, 16), Gemm(128, 32, 4, 4, 16), False, PARTS, True),
    Tiles(
        "many", 2048, Gemm(128, 64, 8, 5, 1, False), Gemm(128, 64, 4, 4, 2, False), True, 1, False
    ),
    # Bound by the tensor cores and by L2.
    Tiles(
        "most", ANY, Gemm(128, 128, 8, 4, 1, False), Gemm(256, 128, 8, 4, 1, False), True, 1, False
    ),
)


def tiles_for(num_tokens: int) -> Tiles:
    """The first entry of TABLE that takes `num_tokens` tokens."""
    return next(entry for entry in TABLE if num_tokens <= entry.max_tokens)
