"""The grouped FP8 GEMM: one kernel, used for both projections."""

import triton
import triton.language as tl

BLOCK = tl.constexpr(128)  # elements that share a scale, along each scaled axis


@triton.jit(do_not_specialize=["num_pairs", "max_blocks", "scale_block_stride"])
def grouped_gemm_kernel(
    a_ptr,  # [P / A_SHARE, K] f8
    a_scale_ptr,  # f32, of row r and block b at r * SCALE_ROW_STRIDE + b * scale_block_stride
    b_ptr,  # [L, N, K] f8
    b_scale_ptr,  # [L, N / BLOCK, K / BLOCK] f32
    c_ptr,  # out [P, N] bf16, rows of local pairs only
    weight_ptr,  # [P] f32
    sorted_ptr,  # [S] i32
    block_expert_ptr,  # [S / BLOCK_M] i32
    total_ptr,  # [1] i32
    num_pairs,
    max_blocks,  # blocks of BLOCK_M pairs that the grid has programs for
    scale_block_stride,
    N: tl.constexpr,
    K: tl.constexpr,
    SCALE_ROW_STRIDE: tl.constexpr,
    A_SHARE: tl.constexpr,  # pairs that read one row of a: TOP_K in GEMM1, 1 in GEMM2
    MUL_WEIGHT: tl.constexpr,
    SWAP_AB: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """One tile of BLOCK_M sorted pairs times BLOCK_N columns.

    GROUP_M blocks of pairs are walked before the next columns, so that neighbours in time share weights in L2. With
    SWAP_AB the weights are the M operand of the matrix instruction, which has 64 rows there, and pairs the N operand.
    """
    tl.static_assert(BLOCK % BLOCK_N == 0)
    COLUMN_BLOCKS: tl.constexpr = N // BLOCK_N
    K_BLOCKS: tl.constexpr = K // BLOCK
    program = tl.program_id(0)
    per_group: tl.constexpr = GROUP_M * COLUMN_BLOCKS
    first_block = program // per_group * GROUP_M
    group_size = tl.minimum(max_blocks - first_block, GROUP_M)
    block = first_block + program % per_group % group_size
    column_block = program % per_group // group_size
    if block * BLOCK_M >= tl.load(total_ptr):
        return

    pair = tl.load(sorted_ptr + block * BLOCK_M + tl.arange(0, BLOCK_M))
    valid = pair < num_pairs
    expert = tl.load(block_expert_ptr + block).to(tl.int64)
    column = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK)
    row = pair // A_SHARE
    a_ptrs = a_ptr + row.to(tl.int64)[:, None] * K + k[None, :]  # [BLOCK_M, BLOCK]
    b_ptrs = b_ptr + expert * (N * K) + column[None, :] * K + k[:, None]  # [BLOCK, BLOCK_N]
    a_scale_ptrs = a_scale_ptr + row * SCALE_ROW_STRIDE
    b_scale_ptrs = b_scale_ptr + expert * (N // BLOCK * K_BLOCKS)
    b_scale_ptrs += column_block * BLOCK_N // BLOCK * K_BLOCKS

    if SWAP_AB:
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for kb in range(K_BLOCKS):
        a = tl.load(a_ptrs + kb * BLOCK, mask=valid[:, None], other=0.0)
        b = tl.load(b_ptrs + kb * BLOCK)
        a_scale = tl.load(a_scale_ptrs + kb * scale_block_stride, mask=valid, other=0.0)
        scale = a_scale * tl.load(b_scale_ptrs + kb)
        if SWAP_AB:
            acc += tl.dot(tl.trans(b), tl.trans(a)) * scale[None, :]
        else:
            acc += tl.dot(a, b) * scale[:, None]
    if SWAP_AB:
        acc = tl.trans(acc)
    if MUL_WEIGHT:
        acc *= tl.load(weight_ptr + pair, mask=valid, other=0.0)[:, None]
    c_ptrs = c_ptr + pair.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(c_ptrs, acc.to(c_ptr.dtype.element_ty), mask=valid[:, None])
