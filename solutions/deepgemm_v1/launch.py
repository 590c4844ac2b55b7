"""Grids and launch parameters of the Triton kernels."""

import torch
import triton

from .activation import combine_kernel, swiglu_quantise_kernel
from .layouts import Layout
from .routing import dispatch_kernel, route_kernel
from .workspace import Buffers

BLOCK = 128  # elements that share a scale
TILE_BLOCKS = 8  # 8 x 128 bf16 of a program: 16-byte loads for each of 128 threads
MAX_PROGRAMS = 1056  # of the kernel that strides over rows: 132 SMs with 8 programs each
MAX_TILE = 1024  # columns of one program of combine_kernel


def _ranges(buffers: Buffers, layout: Layout) -> dict[str, int]:
    """What kernels need to find an expert's rows; a capacity of 0 means ranges without gaps."""
    num_local = buffers.counts.shape[0]
    capacity = buffers.a.shape[0] // num_local if layout.masked else 0
    return {"NUM_LOCAL": num_local, "ALIGN": layout.align, "CAPACITY": capacity}


def route(
    logits: torch.Tensor, bias: torch.Tensor, offset: int, factor: float, buffers: Buffers
) -> None:
    """Choose the experts of logits [T, E] f32 with bias [E] bf16; expert, place, weight and counts are written."""
    num_tokens, num_experts = logits.shape
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
        NUM_LOCAL=buffers.counts.shape[0],
        num_warps=1,  # reductions over the experts then stay within a warp
    )


def dispatch(x: torch.Tensor, x_scale: torch.Tensor, buffers: Buffers, layout: Layout) -> None:
    """Copy rows of x [T, H] f8 and x_scale [H / 128, T] f32 to their experts; row, ends, a, a_scale are written."""
    num_tokens, hidden = x.shape
    dispatch_kernel[(num_tokens,)](
        x,
        x_scale,
        buffers.expert,
        buffers.place,
        buffers.counts,
        buffers.row,
        buffers.ends,
        buffers.a,
        buffers.a_scale,
        x_scale.stride(0),
        buffers.a.shape[0],
        HIDDEN=hidden,
        BLOCK=BLOCK,
        num_warps=4,
        **_ranges(buffers, layout),
    )


def activate(buffers: Buffers, layout: Layout) -> None:
    """SwiGLU and FP8 in one pass over the pairs' rows of up_gate; values and scale are written."""
    rows, inter = buffers.values.shape
    tiles = triton.cdiv(inter // BLOCK, TILE_BLOCKS)
    pairs = buffers.expert.shape[0]
    swiglu_quantise_kernel[(min(pairs * tiles, MAX_PROGRAMS),)](
        buffers.up_gate,
        buffers.counts,
        buffers.values,
        buffers.scale,
        rows,
        INTER=inter,
        BLOCK=BLOCK,
        TILE_BLOCKS=TILE_BLOCKS,
        TILES=tiles,
        num_warps=4,
        **_ranges(buffers, layout),
    )


def combine(buffers: Buffers, output: torch.Tensor) -> None:
    """Add up each token's pairs into output [T, H] bf16, and leave the counters at zero."""
    num_tokens, hidden = output.shape
    tile = min(MAX_TILE, triton.next_power_of_2(hidden))
    combine_kernel[(num_tokens, triton.cdiv(hidden, tile))](
        buffers.results,
        buffers.expert,
        buffers.row,
        buffers.weight,
        output,
        buffers.counts,
        HIDDEN=hidden,
        NUM_LOCAL=buffers.counts.shape[0],
        TILE=tile,
        num_warps=4,
    )
