"""The two grouped FP8 GEMMs and the weighted combine.

With few rows per expert the operands are swapped: weights are the M operand of the matrix instruction and rows
(tokens) the N operand, so an expert with a single row still fills the 64 of M, and a tile of few rows wastes little.
With many rows tokens are M: a thread then holds few rows, so few row scales. A program derives its tile from the
experts' counts; surplus programs leave at once.

Block scales are applied in float32 after each product over one 128-block, which also moves the sum out of the tensor
core's short accumulator.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .routing import TOP_K, find_block, load_blocks

BLOCK = tl.constexpr(128)  # elements that share a scale, along each scaled axis
FP8_MAX = tl.constexpr(448.0)
TINY = tl.constexpr(1e-30)  # keeps the scale of an all-zero block finite
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


@triton.jit
def _product(w, x, SWAP: tl.constexpr):
    """w [M, K] x [N, K] -> [M, N] if SWAP, else [N, M], in float32."""
    return tl.dot(w, x.T) if SWAP else tl.dot(x, w.T)


@triton.jit
def _per_row(values, SWAP: tl.constexpr):
    """Values of rows [N], to be broadcast over a product."""
    return values[None, :] if SWAP else values[:, None]


@triton.jit
def _tile_ptrs(base, rows, row_stride: tl.constexpr, columns, SWAP: tl.constexpr):
    """Addresses of rows [N] and columns [M] in the shape of a product."""
    row_ptrs = base + rows.to(tl.int64) * row_stride
    return _per_row(row_ptrs, SWAP) + (columns[:, None] if SWAP else columns[None, :])


@triton.jit(do_not_specialize=["num_tokens"])
def gemm1_kernel(
    x_ptr,  # [T, H] f8
    x_scale_ptr,  # [H / BLOCK, T] f32
    w_ptr,  # [L, 2I, H] f8
    w_scale_ptr,  # [L, 2I / BLOCK, H / BLOCK] f32
    counts_ptr,  # [L] i32
    rows_ptr,  # [L, T] i32
    inter_ptr,  # out [T * TOP_K, I]: bf16, or f8 if QUANTISE
    inter_scale_ptr,  # out f32: if QUANTISE the scales [T * TOP_K, I / BLOCK], else the largest magnitude of every
    # BLOCK_M columns [T * TOP_K, I / BLOCK_M], from which GEMM2 derives scales
    num_tokens,
    HIDDEN: tl.constexpr,
    INTER: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    UNROLL: tl.constexpr,
    SWAP: tl.constexpr,
    QUANTISE: tl.constexpr,
    PDL: tl.constexpr,
):
    """silu(x Wgate') * (x Wup') of every local pair, stored at the pair's id.

    A tile is BLOCK_M columns of the intermediate, that is BLOCK_M up rows and BLOCK_M gate rows of the weights, times
    BLOCK_N rows of an expert's list, gathered from x while loading.
    """
    tl.static_assert(BLOCK_M <= BLOCK and BLOCK % BLOCK_M == 0)
    tl.static_assert(not QUANTISE or BLOCK_M == BLOCK)
    K_BLOCKS: tl.constexpr = HIDDEN // BLOCK
    TILES: tl.constexpr = INTER // BLOCK_M
    # Below 64 rows the halves share one product, so that it has the 64 rows of one matrix instruction.
    STACKED: tl.constexpr = BLOCK_M < 64
    tl.static_assert(SWAP or not STACKED)
    SHAPE: tl.constexpr = (BLOCK_M, BLOCK_N) if SWAP else (BLOCK_N, BLOCK_M)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    experts, counts, blocks, ends = load_blocks(counts_ptr, NUM_LOCAL, BLOCK_N)
    total = tl.sum(blocks, axis=0) * TILES
    k = tl.arange(0, BLOCK)
    for tile in range(tl.program_id(0), total, tl.num_programs(0)):
        column = tile % TILES * BLOCK_M
        expert, count, begin = find_block(tile // TILES, experts, counts, blocks, ends, BLOCK_N)
        place = begin + tl.arange(0, BLOCK_N)
        valid = place < count
        expert = expert.to(tl.int64)
        pair = tl.load(rows_ptr + expert * num_tokens + place, mask=valid, other=0)
        token = pair // TOP_K

        x_ptrs = x_ptr + token.to(tl.int64)[:, None] * HIDDEN + k[None, :]
        sx_ptrs = x_scale_ptr + token
        w_base = w_ptr + expert * (2 * INTER * HIDDEN)
        su_ptr = w_scale_ptr + expert * (2 * INTER // BLOCK * K_BLOCKS) + column // BLOCK * K_BLOCKS
        sg_ptr = su_ptr + INTER // BLOCK * K_BLOCKS
        # Scales travel one iteration ahead of the product that they scale.
        sx = tl.load(sx_ptrs, mask=valid, other=0.0)
        su = tl.load(su_ptr)
        sg = tl.load(sg_ptr)

        if STACKED:
            m = tl.arange(0, 2 * BLOCK_M)
            row = tl.where(m < BLOCK_M, column + m, INTER - BLOCK_M + column + m)
            w_ptrs = w_base + row[:, None] * HIDDEN + k[None, :]
            acc = tl.zeros((2 * BLOCK_M, BLOCK_N), tl.float32)
            for kb in tl.range(0, K_BLOCKS, loop_unroll_factor=UNROLL):
                ahead = tl.minimum(kb + 1, K_BLOCKS - 1)
                next_sx = tl.load(sx_ptrs + ahead * num_tokens, mask=valid, other=0.0)
                next_su = tl.load(su_ptr + ahead)
                next_sg = tl.load(sg_ptr + ahead)
                w = tl.load(w_ptrs + kb * BLOCK, eviction_policy="evict_first")
                x = tl.load(x_ptrs + kb * BLOCK, mask=valid[:, None], other=0.0)
                part = tl.dot(w, x.T)
                acc += part * (tl.where(m < BLOCK_M, su, sg)[:, None] * sx[None, :])
                sx, su, sg = next_sx, next_su, next_sg
            acc = tl.permute(tl.reshape(acc, (2, BLOCK_M, BLOCK_N)), (1, 2, 0))
            up, gate = tl.split(acc)
        else:
            row = column + tl.arange(0, BLOCK_M)
            up_ptrs = w_base + row[:, None] * HIDDEN + k[None, :]
            up = tl.zeros(SHAPE, tl.float32)
            gate = tl.zeros(SHAPE, tl.float32)
            for kb in tl.range(0, K_BLOCKS, loop_unroll_factor=UNROLL):
                ahead = tl.minimum(kb + 1, K_BLOCKS - 1)
                next_sx = tl.load(sx_ptrs + ahead * num_tokens, mask=valid, other=0.0)
                next_su = tl.load(su_ptr + ahead)
                next_sg = tl.load(sg_ptr + ahead)
                x = tl.load(x_ptrs + kb * BLOCK, mask=valid[:, None], other=0.0)
                w = tl.load(up_ptrs + kb * BLOCK, eviction_policy="evict_first")
                up += _product(w, x, SWAP) * _per_row(su * sx, SWAP)
                w = tl.load(up_ptrs + (INTER * HIDDEN + kb * BLOCK), eviction_policy="evict_first")
                gate += _product(w, x, SWAP) * _per_row(sg * sx, SWAP)
                sx, su, sg = next_sx, next_su, next_sg

        inter = up * gate / (1.0 + tl.exp(-gate))
        columns = column + tl.arange(0, BLOCK_M)
        out_ptrs = _tile_ptrs(inter_ptr, pair, INTER, columns, SWAP)
        if QUANTISE:
            scale = tl.maximum(tl.max(tl.abs(inter), axis=0 if SWAP else 1), TINY) / FP8_MAX
            inter = inter * _per_row(1.0 / scale, SWAP)
            scale_ptrs = inter_scale_ptr + pair * (INTER // BLOCK) + column // BLOCK
            tl.store(scale_ptrs, scale, mask=valid)
            inter = _to_fp8(inter, inter_ptr.dtype.element_ty)
        else:
            inter = inter.to(inter_ptr.dtype.element_ty)
            peak = tl.max(tl.abs(inter.to(tl.float32)), axis=0 if SWAP else 1)
            peak_ptrs = inter_scale_ptr + pair * (INTER // BLOCK_M) + column // BLOCK_M
            tl.store(peak_ptrs, peak, mask=valid)
        tl.store(out_ptrs, inter, mask=_per_row(valid, SWAP))


@triton.jit
def _block_scale(peak_ptrs, valid, GRANULES: tl.constexpr):
    """Scale of one 128-block of every row [N], from the largest magnitudes of its GRANULES parts."""
    peak = tl.load(peak_ptrs, mask=valid, other=0.0)
    for part in tl.static_range(1, GRANULES):
        peak = tl.maximum(peak, tl.load(peak_ptrs + part, mask=valid, other=0.0))
    return tl.maximum(peak, TINY) / FP8_MAX


@triton.jit
def _prefetch(addresses):
    """Ask for the cache lines at `addresses` (i64) to be brought into L2."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [addresses],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit(do_not_specialize=["num_tokens"])
def gemm2_kernel(
    inter_ptr,  # [T * TOP_K, I]: bf16, or f8 if QUANTISED
    inter_scale_ptr,  # f32: if QUANTISED the scales [T * TOP_K, I / BLOCK], else the largest magnitude of every
    # BLOCK / GRANULES columns [T * TOP_K, I * GRANULES / BLOCK]
    w_ptr,  # [L, H, I] f8
    w_scale_ptr,  # [L, H / BLOCK, I / BLOCK] f32
    counts_ptr,  # [L] i32
    rows_ptr,  # [L, T] i32
    out_ptr,  # out [T * TOP_K, H]: f32 or bf16
    num_tokens,
    HIDDEN: tl.constexpr,
    INTER: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    UNROLL: tl.constexpr,
    SWAP: tl.constexpr,
    QUANTISED: tl.constexpr,
    GRANULES: tl.constexpr,
    PARTS: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
):
    """The down projection of every local pair, stored at the pair's id.

    A tile is BLOCK_M of the H outputs times BLOCK_N rows of an expert's list. A BLOCK_M of 256 is computed as two halves
    that share the rows: a product's temporary is then half as large. bf16 rows become f8 on the way, so that the
    weights need no conversion: one part, or two, of which the second holds what the first rounded away.
    """
    K_BLOCKS: tl.constexpr = INTER // BLOCK
    TILES: tl.constexpr = HIDDEN // BLOCK_M
    HALVES: tl.constexpr = 2 if BLOCK_M > BLOCK else 1
    HALF: tl.constexpr = BLOCK_M // HALVES
    SHAPE: tl.constexpr = (HALF, BLOCK_N) if SWAP else (BLOCK_N, HALF)
    tl.static_assert(HALF <= BLOCK and BLOCK % HALF == 0)
    if PREFETCH:
        # While GEMM1 drains. GEMM1 lets this kernel start only after it has waited for the routing itself, so the
        # counts are there; were they not, this would merely fetch the wrong lines.
        _, _, blocks, ends = load_blocks(counts_ptr, NUM_LOCAL, BLOCK_N)
        if tl.program_id(0) < tl.sum(blocks, axis=0) * TILES:
            first = tl.sum((ends <= tl.program_id(0) // TILES).to(tl.int32), axis=0).to(tl.int64)
            lines = first * HIDDEN + tl.program_id(0) % TILES * BLOCK_M
            lines = lines * INTER + tl.arange(0, BLOCK_M)[:, None] * INTER
            lines += (tl.arange(0, triton.next_power_of_2(K_BLOCKS)) % K_BLOCKS * BLOCK)[None, :]
            _prefetch((w_ptr + lines).to(tl.int64))
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    experts, counts, blocks, ends = load_blocks(counts_ptr, NUM_LOCAL, BLOCK_N)
    total = tl.sum(blocks, axis=0) * TILES
    k = tl.arange(0, BLOCK)
    for tile in range(tl.program_id(0), total, tl.num_programs(0)):
        column = tile % TILES * BLOCK_M
        expert, count, begin = find_block(tile // TILES, experts, counts, blocks, ends, BLOCK_N)
        place = begin + tl.arange(0, BLOCK_N)
        valid = place < count
        expert = expert.to(tl.int64)
        pair = tl.load(rows_ptr + expert * num_tokens + place, mask=valid, other=0)

        row = column + tl.arange(0, HALF)
        w_ptrs = w_ptr + expert * (HIDDEN * INTER) + row[:, None] * INTER + k[None, :]
        h_ptrs = inter_ptr + pair.to(tl.int64)[:, None] * INTER + k[None, :]
        sh_ptrs = inter_scale_ptr + pair * (K_BLOCKS * GRANULES)
        sw_ptr = w_scale_ptr + expert * (HIDDEN // BLOCK * K_BLOCKS) + column // BLOCK * K_BLOCKS
        # Scales travel one iteration ahead of the product that they scale.
        sw = tl.load(sw_ptr)
        sw2 = sw
        if HALVES == 2:
            sw2 = tl.load(sw_ptr + K_BLOCKS)
        if QUANTISED:
            sh = tl.load(sh_ptrs, mask=valid, other=0.0)
        else:
            sh = _block_scale(sh_ptrs, valid, GRANULES)
        acc = tl.zeros(SHAPE, tl.float32)
        acc2 = acc
        for kb in tl.range(0, K_BLOCKS, loop_unroll_factor=UNROLL):
            ahead = tl.minimum(kb + 1, K_BLOCKS - 1)
            next_sw = tl.load(sw_ptr + ahead)
            next_sw2 = next_sw
            if HALVES == 2:
                next_sw2 = tl.load(sw_ptr + K_BLOCKS + ahead)
            h = tl.load(h_ptrs + kb * BLOCK, mask=valid[:, None], other=0.0)
            w = tl.load(w_ptrs + kb * BLOCK, eviction_policy="evict_first")
            if QUANTISED:
                next_sh = tl.load(sh_ptrs + ahead, mask=valid, other=0.0)
                acc += _product(w, h, SWAP) * _per_row(sw * sh, SWAP)
                if HALVES == 2:
                    w = tl.load(w_ptrs + (HALF * INTER + kb * BLOCK), eviction_policy="evict_first")
                    acc2 += _product(w, h, SWAP) * _per_row(sw2 * sh, SWAP)
                sh = next_sh
            else:
                tl.static_assert(SWAP and HALVES == 1)
                next_sh = _block_scale(sh_ptrs + ahead * GRANULES, valid, GRANULES)
                scaled = h.to(tl.float32) * (1.0 / sh)[:, None]
                high = _to_fp8(scaled, w_ptr.dtype.element_ty)
                part = tl.dot(w, high.T)
                if PARTS == 2:
                    # e4m3 keeps 4 significant bits and the second part the next 4: together what bf16 holds.
                    low = _to_fp8(scaled - high.to(tl.float32), w_ptr.dtype.element_ty)
                    part = tl.dot(w, low.T, part)
                acc += part * (sw * sh)[None, :]
                sh = next_sh
            sw, sw2 = next_sw, next_sw2

        out_ptrs = _tile_ptrs(out_ptr, pair, HIDDEN, row, SWAP)
        inside = _per_row(valid, SWAP)
        tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=inside)
        if HALVES == 2:
            tl.store(out_ptrs + HALF, acc2.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def combine_kernel(
    pairs_ptr,  # [T * TOP_K, H]: f32 or bf16, written for local pairs only
    expert_ptr,  # [T, TOP_K] i32
    weight_ptr,  # [T, TOP_K] f32
    counts_ptr,  # [L] i32, left zero for the next call
    out_ptr,  # out [T, H] bf16
    HIDDEN: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PDL: tl.constexpr,
):
    """Weighted sum of a token's local experts in slot order; zeros for a token that has none."""
    if PDL:
        gdc_wait()
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = column < HIDDEN
    acc = tl.zeros((BLOCK_H,), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        is_local = tl.load(expert_ptr + pair) >= 0
        weight = tl.load(weight_ptr + pair)
        value = tl.load(pairs_ptr + pair * HIDDEN + column, mask=inside & is_local, other=0.0)
        acc += weight * value.to(tl.float32)
    tl.store(out_ptr + token * HIDDEN + column, acc.to(tl.bfloat16), mask=inside)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        experts = tl.arange(0, triton.next_power_of_2(NUM_LOCAL))
        tl.store(counts_ptr + experts, tl.zeros_like(experts), mask=experts < NUM_LOCAL)
