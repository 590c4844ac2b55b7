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


@triton.jit
def _gemm1_scales(sx_ptrs, valid, su_ptr, sg_ptr, num_tokens, kb, K_BLOCKS: tl.constexpr):
    """Scales of one 128-block: of the rows [N] and of the tile's up and gate weights. Beyond the last block, that one's."""
    kb = tl.minimum(kb, K_BLOCKS - 1)
    sx = tl.load(sx_ptrs + kb * num_tokens, mask=valid, other=0.0)
    return sx, tl.load(su_ptr + kb), tl.load(sg_ptr + kb)


@triton.jit(do_not_specialize=["num_tokens"])
def gemm1_kernel(
    x_ptr,  # [T, H] f8
    x_scale_ptr,  # [H / BLOCK, T] f32
    w_ptr,  # [L, 2I, H] f8
    w_scale_ptr,  # [L, 2I / BLOCK, H / BLOCK] f32
    counts_ptr,  # [L] i32
    rows_ptr,  # [L, T] i32
    inter_ptr,  # out [T * TOP_K, I] f8
    inter_scale_ptr,  # out [T * TOP_K, I / BLOCK] f32
    staged_ptr,  # [T * TOP_K, I] bf16, used if tiles are narrower than BLOCK
    arrived_ptr,  # [row blocks, I / BLOCK] i32, zero on entry and exit: tiles staged of each block of BLOCK columns
    num_tokens,
    HIDDEN: tl.constexpr,
    INTER: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    UNROLL: tl.constexpr,
    SWAP: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """silu(x Wgate') * (x Wup') of every local pair, stored at the pair's id in f8 with a scale per BLOCK columns.

    A tile is BLOCK_M columns of the intermediate, that is BLOCK_M up rows and BLOCK_M gate rows of the weights, times
    BLOCK_N rows of an expert's list, gathered from x while loading. Tiles narrower than BLOCK are staged in bf16, and
    the program that stages the last tile of BLOCK columns rounds them all.

    Which one that is a counter in device memory says, and it needs no waiting:

    - A row block's BLOCK columns are BLOCK / BLOCK_M tiles, `tile` enumerates every tile of the launch once, and one program
      counts each once, after it has stored it. So exactly one program reads BLOCK / BLOCK_M - 1. No program waits for
      another, so it does not matter how many run at once, whether one program walks all tiles of a block (as under the
      interpreter), or in which order. With no local pair there is no tile and nothing is counted.
    - The barrier orders the stores of a program's threads before the addition, which releases them on the GPU; the last
      addition acquires what the others released, and Triton hands its result to all threads through a barrier. So the last
      program's loads see every tile of the block.
    - It sets the counter back to zero: nobody adds to it any more in this launch, and the next launch that counts comes
      after this one has ended. What GEMM2 reads is complete when this kernel is.
    - All tiles of a row block derive the same expert, rows and `valid` from the same counts. Rows beyond the expert's count
      are neither staged nor read nor written. There are `row_blocks` counters per BLOCK columns, the most of any routing.
    """
    tl.static_assert(BLOCK_M <= BLOCK and BLOCK % BLOCK_M == 0)
    K_BLOCKS: tl.constexpr = HIDDEN // BLOCK
    TILES: tl.constexpr = INTER // BLOCK_M
    DISTANCE: tl.constexpr = 3 if AHEAD and BLOCK_N <= 16 else 1  # larger tiles lack the registers
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
        if AHEAD and not INTERPRETED:
            # A miss of a scale waits behind all the weights that are on their way, so all are asked for before those.
            block = tl.arange(0, triton.next_power_of_2(K_BLOCKS)) % K_BLOCKS
            _prefetch((su_ptr + block).to(tl.int64))
            _prefetch((sg_ptr + block).to(tl.int64))
            if DISTANCE == 3:
                _prefetch((sx_ptrs[None, :] + (block * num_tokens)[:, None]).to(tl.int64))
        # Scales travel DISTANCE 128-blocks ahead of the product that they scale.
        sx, su, sg = _gemm1_scales(sx_ptrs, valid, su_ptr, sg_ptr, num_tokens, 0, K_BLOCKS)
        sx1, su1, sg1 = sx, su, sg
        sx2, su2, sg2 = sx, su, sg
        if DISTANCE == 3:
            sx1, su1, sg1 = _gemm1_scales(sx_ptrs, valid, su_ptr, sg_ptr, num_tokens, 1, K_BLOCKS)
            sx2, su2, sg2 = _gemm1_scales(sx_ptrs, valid, su_ptr, sg_ptr, num_tokens, 2, K_BLOCKS)

        if STACKED:
            m = tl.arange(0, 2 * BLOCK_M)
            row = tl.where(m < BLOCK_M, column + m, INTER - BLOCK_M + column + m)
            w_ptrs = w_base + row[:, None] * HIDDEN + k[None, :]
            acc = tl.zeros((2 * BLOCK_M, BLOCK_N), tl.float32)
            for kb in tl.range(0, K_BLOCKS, loop_unroll_factor=UNROLL):
                next_sx, next_su, next_sg = _gemm1_scales(
                    sx_ptrs, valid, su_ptr, sg_ptr, num_tokens, kb + DISTANCE, K_BLOCKS
                )
                w = tl.load(w_ptrs + kb * BLOCK, eviction_policy="evict_first")
                x = tl.load(x_ptrs + kb * BLOCK, mask=valid[:, None], other=0.0)
                part = tl.dot(w, x.T)
                acc += part * (tl.where(m < BLOCK_M, su, sg)[:, None] * sx[None, :])
                if DISTANCE == 3:
                    # Triton pipelines no loop that hands a value on unchanged, so each is added to zero.
                    sx, su, sg = sx1 + 0.0, su1 + 0.0, sg1 + 0.0
                    sx1, su1, sg1 = sx2 + 0.0, su2 + 0.0, sg2 + 0.0
                    sx2, su2, sg2 = next_sx, next_su, next_sg
                else:
                    sx, su, sg = next_sx, next_su, next_sg
            acc = tl.permute(tl.reshape(acc, (2, BLOCK_M, BLOCK_N)), (1, 2, 0))
            up, gate = tl.split(acc)
        else:
            row = column + tl.arange(0, BLOCK_M)
            up_ptrs = w_base + row[:, None] * HIDDEN + k[None, :]
            up = tl.zeros(SHAPE, tl.float32)
            gate = tl.zeros(SHAPE, tl.float32)
            for kb in tl.range(0, K_BLOCKS, loop_unroll_factor=UNROLL):
                next_sx, next_su, next_sg = _gemm1_scales(
                    sx_ptrs, valid, su_ptr, sg_ptr, num_tokens, kb + DISTANCE, K_BLOCKS
                )
                x = tl.load(x_ptrs + kb * BLOCK, mask=valid[:, None], other=0.0)
                w = tl.load(up_ptrs + kb * BLOCK, eviction_policy="evict_first")
                up += _product(w, x, SWAP) * _per_row(su * sx, SWAP)
                w = tl.load(up_ptrs + (INTER * HIDDEN + kb * BLOCK), eviction_policy="evict_first")
                gate += _product(w, x, SWAP) * _per_row(sg * sx, SWAP)
                if DISTANCE == 3:
                    # Triton pipelines no loop that hands a value on unchanged, so each is added to zero.
                    sx, su, sg = sx1 + 0.0, su1 + 0.0, sg1 + 0.0
                    sx1, su1, sg1 = sx2 + 0.0, su2 + 0.0, sg2 + 0.0
                    sx2, su2, sg2 = next_sx, next_su, next_sg
                else:
                    sx, su, sg = next_sx, next_su, next_sg

        inter = up * gate / (1.0 + tl.exp(-gate))
        columns = column + tl.arange(0, BLOCK_M)
        scale_ptrs = inter_scale_ptr + pair * (INTER // BLOCK) + column // BLOCK
        if BLOCK_M == BLOCK:
            scale = tl.maximum(tl.max(tl.abs(inter), axis=0 if SWAP else 1), TINY) / FP8_MAX
            inter = inter * _per_row(1.0 / scale, SWAP)
            tl.store(scale_ptrs, scale, mask=valid)
            out_ptrs = _tile_ptrs(inter_ptr, pair, INTER, columns, SWAP)
            inter = _to_fp8(inter, inter_ptr.dtype.element_ty)
            tl.store(out_ptrs, inter, mask=_per_row(valid, SWAP))
        else:
            out_ptrs = _tile_ptrs(staged_ptr, pair, INTER, columns, SWAP)
            tl.store(out_ptrs, inter.to(tl.bfloat16), mask=_per_row(valid, SWAP))
            # All threads have stored before the one that counts does.
            tl.debug_barrier()
            arrived = arrived_ptr + tile // TILES * (INTER // BLOCK) + column // BLOCK
            if tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu") == BLOCK // BLOCK_M - 1:
                tl.store(arrived, 0)
                # From L2, where the other programs' tiles are.
                offsets = (
                    pair.to(tl.int64)[:, None] * INTER + (column // BLOCK * BLOCK + k)[None, :]
                )
                whole = tl.load(
                    staged_ptr + offsets, mask=valid[:, None], other=0.0, cache_modifier=".cg"
                ).to(tl.float32)
                scale = tl.maximum(tl.max(tl.abs(whole), axis=1), TINY) / FP8_MAX
                tl.store(scale_ptrs, scale, mask=valid)
                whole = _to_fp8(whole * (1.0 / scale)[:, None], inter_ptr.dtype.element_ty)
                tl.store(inter_ptr + offsets, whole, mask=valid[:, None])


@triton.jit(do_not_specialize=["num_tokens"])
def gemm2_kernel(
    inter_ptr,  # [T * TOP_K, I] f8
    inter_scale_ptr,  # [T * TOP_K, I / BLOCK] f32
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
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """The down projection of every local pair, stored at the pair's id.

    A tile is BLOCK_M of the H outputs times BLOCK_N rows of an expert's list. A BLOCK_M of 256 is computed as two halves
    that share the rows: a product's temporary is then half as large.
    """
    K_BLOCKS: tl.constexpr = INTER // BLOCK
    TILES: tl.constexpr = HIDDEN // BLOCK_M
    HALVES: tl.constexpr = 2 if BLOCK_M > BLOCK else 1
    HALF: tl.constexpr = BLOCK_M // HALVES
    SHAPE: tl.constexpr = (HALF, BLOCK_N) if SWAP else (BLOCK_N, HALF)
    DISTANCE: tl.constexpr = 3 if AHEAD and BLOCK_N <= 16 else 1  # larger tiles lack the registers
    tl.static_assert(DISTANCE == 1 or HALVES == 1)
    tl.static_assert(HALF <= BLOCK and BLOCK % HALF == 0)
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
        sh_ptrs = inter_scale_ptr + pair * K_BLOCKS
        sw_ptr = w_scale_ptr + expert * (HIDDEN // BLOCK * K_BLOCKS) + column // BLOCK * K_BLOCKS
        if AHEAD and not INTERPRETED:
            _prefetch(
                (sw_ptr + tl.arange(0, triton.next_power_of_2(K_BLOCKS)) % K_BLOCKS).to(tl.int64)
            )
        # Scales travel DISTANCE 128-blocks ahead of the product that they scale.
        sw = tl.load(sw_ptr)
        sw2 = sw
        if HALVES == 2:
            sw2 = tl.load(sw_ptr + K_BLOCKS)
        sh = tl.load(sh_ptrs, mask=valid, other=0.0)
        later_sw, later_sh = sw, sh
        last_sw, last_sh = sw, sh
        if DISTANCE == 3:
            later_sw = tl.load(sw_ptr + tl.minimum(1, K_BLOCKS - 1))
            later_sh = tl.load(sh_ptrs + tl.minimum(1, K_BLOCKS - 1), mask=valid, other=0.0)
            last_sw = tl.load(sw_ptr + tl.minimum(2, K_BLOCKS - 1))
            last_sh = tl.load(sh_ptrs + tl.minimum(2, K_BLOCKS - 1), mask=valid, other=0.0)
        acc = tl.zeros(SHAPE, tl.float32)
        acc2 = acc
        for kb in tl.range(0, K_BLOCKS, loop_unroll_factor=UNROLL):
            ahead = tl.minimum(kb + DISTANCE, K_BLOCKS - 1)
            next_sw = tl.load(sw_ptr + ahead)
            next_sw2 = next_sw
            if HALVES == 2:
                next_sw2 = tl.load(sw_ptr + K_BLOCKS + ahead)
            next_sh = tl.load(sh_ptrs + ahead, mask=valid, other=0.0)
            h = tl.load(h_ptrs + kb * BLOCK, mask=valid[:, None], other=0.0)
            w = tl.load(w_ptrs + kb * BLOCK, eviction_policy="evict_first")
            acc += _product(w, h, SWAP) * _per_row(sw * sh, SWAP)
            if HALVES == 2:
                w = tl.load(w_ptrs + (HALF * INTER + kb * BLOCK), eviction_policy="evict_first")
                acc2 += _product(w, h, SWAP) * _per_row(sw2 * sh, SWAP)
            if DISTANCE == 3:
                # Triton pipelines no loop that hands a value on unchanged, so each is added to zero.
                sw, sh = later_sw + 0.0, later_sh + 0.0
                later_sw, later_sh = last_sw + 0.0, last_sh + 0.0
                last_sw, last_sh = next_sw, next_sh
            else:
                sw, sw2, sh = next_sw, next_sw2, next_sh

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
