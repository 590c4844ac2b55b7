"""The Triton kernel behind the read ceiling; apart from `ceilings`, which must be importable without Triton."""

import triton
import triton.language as tl


@triton.jit
def sum_blocks(words, sums, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """Each program adds up COUNT blocks of BLOCK int32 words and writes one sum, so that no load can be dropped."""
    program = tl.program_id(0).to(tl.int64)
    offsets = program * (BLOCK * COUNT) + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.int32)
    for _ in tl.static_range(COUNT):
        total += tl.load(words + offsets, eviction_policy="evict_first")
        offsets += BLOCK
    tl.store(sums + program, tl.sum(total, axis=0))
