"""Grids and launch parameters."""

import torch
import triton

from .activation import quantise_kernel, sum_kernel, swiglu_kernel
from .gemm import grouped_gemm_kernel
from .routing import align_kernel, route_kernel
from .tiles import Tile
from .workspace import SLOTS, Buffers, max_blocks

ALIGN_PAIRS = 256  # pairs of one program of align_kernel
MAX_TILE = 1024  # columns of one program: 8 bf16 for each of 128 threads
TILE_BLOCKS = 8  # 128-blocks of one program of quantise_kernel
MAX_PROGRAMS = 1056  # of kernels that stride over pairs: 132 SMs with 8 programs each


def sort(
    logits: torch.Tensor,
    bias: torch.Tensor,
    offset: int,
    factor: float,
    buffers: Buffers,
    tile: Tile,
) -> None:
    """Choose experts and sort the local pairs into blocks of one expert.

    Args:
        logits: [T, E] f32.
        bias: [E] bf16.
        offset: id of the first local expert.
        factor: multiplies the normalised weights.
        buffers: of which expert, place, weight, counts, sorted, block_expert and total are written.
        tile: gives the size of a block.
    """
    num_tokens, num_experts = logits.shape
    num_local = buffers.counts.shape[0]
    route_kernel[(num_tokens,)](
        logits,
        bias,
        buffers.expert,
        buffers.place,
        buffers.weight,
        buffers.counts,
        offset,
        factor,
        NUM_EXPERTS=num_experts,
        NUM_LOCAL=num_local,
        num_warps=1,  # reductions over the experts then stay within a warp
    )
    num_pairs = num_tokens * SLOTS
    align_kernel[(num_local + triton.cdiv(num_pairs, ALIGN_PAIRS),)](
        buffers.expert,
        buffers.place,
        buffers.counts,
        buffers.sorted,
        buffers.block_expert,
        buffers.total,
        num_pairs,
        NUM_LOCAL=num_local,
        BLOCK_M=tile.block_m,
        TILE=ALIGN_PAIRS,
        num_warps=4,
    )


def grouped_gemm(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    scale_strides: tuple[int, int],
    weights: torch.Tensor,
    weights_scale: torch.Tensor,
    out: torch.Tensor,
    buffers: Buffers,
    tile: Tile,
    *,
    gather: bool,
    weighted: bool,
) -> None:
    """out[pair] = a[row of the pair] @ weights[expert of the pair].T, dequantised by 128-blocks.

    Args:
        a: [T, K] f8 if `gather`, else [P, K] f8.
        a_scale: f32, of row r and block b at r * scale_strides[0] + b * scale_strides[1].
        scale_strides: elements between rows and between blocks.
        weights: [L, N, K] f8.
        weights_scale: [L, N / 128, K / 128] f32.
        out: [P, N] bf16, written for local pairs.
        buffers: as `sort` left them.
        tile: launch parameters; its block_m is that of `sort`.
        gather: a pair reads the row of its token instead of its own.
        weighted: multiply by the pair's routing weight.
    """
    num_local, n, k = weights.shape
    blocks = max_blocks(out.shape[0] // SLOTS, num_local, tile.block_m)
    grouped_gemm_kernel[(blocks * (n // tile.block_n),)](
        a,
        a_scale,
        weights,
        weights_scale,
        out,
        buffers.weight,
        buffers.sorted,
        buffers.block_expert,
        buffers.total,
        out.shape[0],
        blocks,
        scale_strides[1],
        N=n,
        K=k,
        SCALE_ROW_STRIDE=scale_strides[0],
        A_SHARE=SLOTS if gather else 1,
        MUL_WEIGHT=weighted,
        SWAP_AB=tile.swap_ab,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        GROUP_M=tile.group_m,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def activate(buffers: Buffers) -> None:
    """SwiGLU in bf16, then FP8 with a scale per 128 columns."""
    num_pairs, inter = buffers.values.shape
    width = min(MAX_TILE, triton.next_power_of_2(inter))
    swiglu_kernel[(min(num_pairs * triton.cdiv(inter, width), MAX_PROGRAMS),)](
        buffers.up_gate,
        buffers.activated,
        buffers.sorted,
        buffers.total,
        num_pairs,
        INTER=inter,
        TILE=width,
        num_warps=4,
    )
    tiles = triton.cdiv(inter // 128, TILE_BLOCKS)
    quantise_kernel[(min(num_pairs * tiles, MAX_PROGRAMS),)](
        buffers.activated,
        buffers.values,
        buffers.scale,
        buffers.sorted,
        buffers.total,
        num_pairs,
        INTER=inter,
        TILE_BLOCKS=TILE_BLOCKS,
        TILES=tiles,
        num_warps=4,
    )


def reduce(buffers: Buffers, output: torch.Tensor) -> None:
    """Add up each token's pairs into `output` [T, H] bf16, and leave the counters at zero."""
    num_tokens, hidden = output.shape
    width = min(MAX_TILE, triton.next_power_of_2(hidden))
    sum_kernel[(num_tokens, triton.cdiv(hidden, width))](
        buffers.results,
        buffers.expert,
        output,
        buffers.counts,
        HIDDEN=hidden,
        NUM_LOCAL=buffers.counts.shape[0],
        TILE=width,
        num_warps=4,
    )
