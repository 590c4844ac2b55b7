"""Tile shapes of the grouped GEMM by number of tokens.

The entries are those that SGLang ships for DeepSeek-V3 on an H200 ("E=257,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,
block_shape=[128, 128]", Triton 3.3.1), looked up as it does: the entry of the nearest number of tokens. They were tuned
with all experts on every GPU and an eighth of the intermediate size, so an expert sees as many rows as here.
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Tile:
    """Launch parameters; a tile is block_m pairs of one expert times block_n columns."""

    block_m: int
    group_m: int
    """Blocks of pairs that are walked before the next columns."""
    stages: int
    block_n: int = 128
    warps: int = 4

    @property
    def swap_ab(self) -> bool:
        """Weights as the M operand, where pairs alone would not fill the 64 rows of a matrix instruction."""
        return self.block_m < 64 and self.block_n >= 64


TABLE = {
    1: Tile(16, 16, 4),
    2: Tile(16, 16, 4),
    4: Tile(16, 64, 4),
    8: Tile(16, 16, 4),
    16: Tile(16, 1, 3),
    24: Tile(16, 16, 4),
    32: Tile(16, 32, 5),
    48: Tile(16, 32, 3),
    64: Tile(16, 16, 3),
    96: Tile(16, 16, 3),
    128: Tile(16, 32, 3),
    256: Tile(16, 64, 3),
    512: Tile(16, 32, 3),
    1024: Tile(64, 16, 4),
    1536: Tile(64, 32, 4),
    2048: Tile(64, 32, 4),
    3072: Tile(64, 32, 4),
    4096: Tile(64, 16, 3),
}


@cache
def tile_for(num_tokens: int) -> Tile:
    """The entry of the nearest number of tokens, the smaller of two equally near."""
    return TABLE[min(TABLE, key=lambda tokens: abs(tokens - num_tokens))]
