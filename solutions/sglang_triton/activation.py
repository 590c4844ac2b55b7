"""What lies between and after the GEMMs: SwiGLU, quantisation per 128 elements, sum over a token's experts."""

import triton
import triton.language as tl

from .gemm import BLOCK
from .routing import TOP_K

FP8_MAX = tl.constexpr(448.0)
MIN_AMAX = tl.constexpr(1e-10)  # keeps the scale of an all-zero block off zero
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit(do_not_specialize=["num_pairs"])
def swiglu_kernel(
    up_gate_ptr,  # [P, 2 * I] bf16; the gate is the second half
    out_ptr,  # out [P, I] bf16, rows of local pairs only
    sorted_ptr,  # [S] i32
    total_ptr,  # [1] i32
    num_pairs,
    INTER: tl.constexpr,
    TILE: tl.constexpr,
):
    """silu(gate) * up in float32. Programs stride over the pairs in use, so the grid needs no count."""
    TILES: tl.constexpr = (INTER + TILE - 1) // TILE
    for item in range(tl.program_id(0), tl.load(total_ptr) * TILES, tl.num_programs(0)):
        pair = tl.load(sorted_ptr + item // TILES)
        if pair < num_pairs:
            column = item % TILES * TILE + tl.arange(0, TILE)
            inside = column < INTER
            ptrs = up_gate_ptr + pair.to(tl.int64) * (2 * INTER) + column
            up = tl.load(ptrs, mask=inside, other=0.0).to(tl.float32)
            gate = tl.load(ptrs + INTER, mask=inside, other=0.0).to(tl.float32)
            result = gate / (1.0 + tl.exp(-gate)) * up
            out_ptrs = out_ptr + pair.to(tl.int64) * INTER + column
            tl.store(out_ptrs, result.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _to_fp8(values, F8: tl.constexpr):
    """Round to nearest e4m3; |values| at most FP8_MAX."""
    if INTERPRETED:
        # The interpreter (Triton 3.7) loses the carry when rounding up reaches the next power of two, so leave it nothing
        # to round: Veltkamp's splitting keeps 4 of float32's 24 significant bits.
        shifted = values * (2.0**20 + 1.0)
        values = shifted - (shifted - values)
    return values.to(F8)


@triton.jit(do_not_specialize=["num_pairs"])
def quantise_kernel(
    x_ptr,  # [P, I] bf16
    values_ptr,  # out [P, I] f8, rows of local pairs only
    scale_ptr,  # out [P, I / BLOCK] f32, likewise
    sorted_ptr,  # [S] i32
    total_ptr,  # [1] i32
    num_pairs,
    INTER: tl.constexpr,
    TILE_BLOCKS: tl.constexpr,
    TILES: tl.constexpr,  # of TILE_BLOCKS blocks in a row
):
    """FP8 with one scale per row and BLOCK elements: scale = amax / 448."""
    NUM_BLOCKS: tl.constexpr = INTER // BLOCK
    for item in range(tl.program_id(0), tl.load(total_ptr) * TILES, tl.num_programs(0)):
        pair = tl.load(sorted_ptr + item // TILES)
        if pair < num_pairs:
            block = item % TILES * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)
            column = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
            inside = column < INTER
            row = pair.to(tl.int64)
            x = tl.load(x_ptr + row * INTER + column, mask=inside, other=0.0).to(tl.float32)
            scale = tl.maximum(tl.max(tl.abs(x), axis=1), MIN_AMAX) / FP8_MAX
            values = tl.minimum(tl.maximum(x / scale[:, None], -FP8_MAX), FP8_MAX)
            values = _to_fp8(values, values_ptr.dtype.element_ty)
            tl.store(values_ptr + row * INTER + column, values, mask=inside)
            tl.store(scale_ptr + row * NUM_BLOCKS + block, scale, mask=block < NUM_BLOCKS)


@triton.jit
def sum_kernel(
    results_ptr,  # [P, H] bf16, already weighted; rows of local pairs only
    expert_ptr,  # [P] i32
    output_ptr,  # out [T, H] bf16
    counts_ptr,  # [L] i32, left zero for the next call
    HIDDEN: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    TILE: tl.constexpr,
):
    """Sum of a token's pairs in slot order; zeros for a token that has no local expert."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = column < HIDDEN
    acc = tl.zeros((TILE,), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        is_local = tl.load(expert_ptr + pair) >= 0
        value = tl.load(results_ptr + pair * HIDDEN + column, mask=inside & is_local, other=0.0)
        acc += value.to(tl.float32)
    tl.store(output_ptr + token * HIDDEN + column, acc.to(tl.bfloat16), mask=inside)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        experts = tl.arange(0, triton.next_power_of_2(NUM_LOCAL))
        tl.store(counts_ptr + experts, tl.zeros_like(experts), mask=experts < NUM_LOCAL)
