"""What lies between and after the GEMMs: SwiGLU with quantisation, weighted combine."""

import triton
import triton.language as tl

from .routing import TOP_K, expert_ranges, scale_start

FP8_MAX = tl.constexpr(448.0)
MIN_AMAX = tl.constexpr(1e-10)  # keeps the scale of an all-zero block off zero
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _to_fp8(values, F8: tl.constexpr):
    """Round to nearest e4m3; |values| at most FP8_MAX."""
    if INTERPRETED:
        # The interpreter (Triton 3.7) loses the carry when rounding up reaches the next power of two, so leave it nothing
        # to round: Veltkamp's splitting keeps 4 of float32's 24 significant bits.
        shifted = values * (2.0**20 + 1.0)
        values = shifted - (shifted - values)
    return values.to(F8)


@triton.jit(do_not_specialize=["rows"])
def swiglu_quantise_kernel(
    up_gate_ptr,  # [R, 2 * I] bf16; the gate is the second half
    counts_ptr,  # [L] i32
    values_ptr,  # out [R, I] f8, rows of pairs only
    scale_ptr,  # out f32, likewise, see scale_start
    rows,  # R
    INTER: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE_BLOCKS: tl.constexpr,
    TILES: tl.constexpr,  # of TILE_BLOCKS blocks in a row
    NUM_LOCAL: tl.constexpr,
    ALIGN: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    """silu(gate) * up in f32, then FP8 with scale = amax / 448 per BLOCK columns.

    Programs stride over the tiles of the rows that belong to pairs, so neither the grid needs their number nor are the
    padding rows worked on.
    """
    BLOCKS: tl.constexpr = INTER // BLOCK
    _, counts, starts = expert_ranges(counts_ptr, NUM_LOCAL, ALIGN, CAPACITY)
    ends = tl.cumsum(counts, axis=0)  # in an order without padding
    total = tl.sum(counts, axis=0)
    for item in range(tl.program_id(0), total * TILES, tl.num_programs(0)):
        place = item // TILES
        # The expert whose pairs [ends - counts, ends) hold `place`; experts without pairs hold none.
        here = (place >= ends - counts) & (place < ends)
        row = place + tl.sum(tl.where(here, starts - (ends - counts), 0), axis=0)
        row = row.to(tl.int64)
        block = item % TILES * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)
        column = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]  # [TILE_BLOCKS, BLOCK]
        inside = column < INTER
        ptrs = up_gate_ptr + row * (2 * INTER) + column
        up = tl.load(ptrs, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(ptrs + INTER, mask=inside, other=0.0).to(tl.float32)
        activated = gate / (1.0 + tl.exp(-gate)) * up

        scale = tl.maximum(tl.max(tl.abs(activated), axis=1), MIN_AMAX) / FP8_MAX
        values = activated / scale[:, None]
        values = tl.minimum(tl.maximum(values, -FP8_MAX), FP8_MAX)
        values = _to_fp8(values, values_ptr.dtype.element_ty)
        tl.store(values_ptr + row * INTER + column, values, mask=inside)
        start, stride = scale_start(row, rows, BLOCKS, CAPACITY)
        tl.store(scale_ptr + start + block.to(tl.int64) * stride, scale, mask=block < BLOCKS)


@triton.jit
def combine_kernel(
    results_ptr,  # [R, H] bf16
    expert_ptr,  # [P] i32
    row_ptr,  # [P] i32
    weight_ptr,  # [P] f32
    output_ptr,  # out [T, H] bf16
    counts_ptr,  # [L] i32, left zero for the next call
    HIDDEN: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """Weighted f32 sum of a token's pairs in slot order; zeros for a token that has no local expert."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < HIDDEN
    acc = tl.zeros((TILE,), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        # Masks, not branches: the loads of all slots are then in flight together.
        is_local = tl.load(expert_ptr + pair) >= 0
        row = tl.load(row_ptr + pair, mask=is_local, other=0).to(tl.int64)
        weight = tl.load(weight_ptr + pair)
        value = tl.load(results_ptr + row * HIDDEN + column, mask=inside & is_local, other=0.0)
        acc += weight * value.to(tl.float32)
    tl.store(output_ptr + token * HIDDEN + column, acc.to(tl.bfloat16), mask=inside)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        experts = tl.arange(0, triton.next_power_of_2(NUM_LOCAL))
        tl.store(counts_ptr + experts, tl.zeros_like(experts), mask=experts < NUM_LOCAL)
