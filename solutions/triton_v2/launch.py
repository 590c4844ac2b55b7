"""Grids and launch parameters of the Triton kernels."""

import torch
import triton

from . import kernels

NUM_GROUPS = 8
TOP_GROUPS = 4
TOP_K = 8
# 8 rows x 128 elements per program: 16-byte loads for each of 128 threads.
TILE_GROUPS = 8
# SwiGLU programs stride over the tiles in use; this many fill 132 SMs with 8 programs each.
MAX_SWIGLU_PROGRAMS = 1056
MAX_TILE_H = 1024


def route(
    logits: torch.Tensor,
    bias: torch.Tensor,
    local_offset: int,
    scaling_factor: float,
    local_ids: torch.Tensor,
    ranks: torch.Tensor,
    weights: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """Route every token; see `kernels.route_kernel` for shapes."""
    num_tokens, num_experts = logits.shape
    kernels.route_kernel[(num_tokens,)](
        logits,
        bias,
        local_ids,
        ranks,
        weights,
        counts,
        local_offset,
        scaling_factor,
        E=num_experts,
        L=counts.shape[0],
        GROUPS=NUM_GROUPS,
        TOP_GROUPS=TOP_GROUPS,
        TOP_K=TOP_K,
        num_warps=1,  # reductions over 256 experts then stay within a warp
    )


def dispatch(
    hidden_states: torch.Tensor,
    hidden_states_scale: torch.Tensor,
    local_ids: torch.Tensor,
    ranks: torch.Tensor,
    counts: torch.Tensor,
    rows: torch.Tensor,
    sorted_x: torch.Tensor,
    sorted_scale: torch.Tensor,
    sizes1: torch.Tensor,
    sizes2: torch.Tensor,
    expert_offsets: torch.Tensor,
    inter: int,
) -> None:
    """Sort the pairs' inputs by expert; see `kernels.dispatch_kernel` for shapes."""
    num_tokens, hidden = hidden_states.shape
    num_local = counts.shape[0]
    kernels.dispatch_kernel[(num_tokens,)](
        hidden_states,
        hidden_states_scale,
        local_ids,
        ranks,
        counts,
        rows,
        sorted_x,
        sorted_scale,
        sizes1,
        sizes2,
        expert_offsets,
        hidden_states_scale.stride(0),
        H=hidden,
        INTER=inter,
        L=num_local,
        TOP_K=TOP_K,
        BLOCK=kernels.BLOCK,
        H_POW2=triton.next_power_of_2(hidden),
        SCALES_POW2=triton.next_power_of_2(hidden // kernels.BLOCK),
        L_POW2=triton.next_power_of_2(num_local),
        num_warps=4,
    )


def swiglu_quantise(
    up_gate: torch.Tensor,
    values: torch.Tensor,
    scale: torch.Tensor,
    expert_offsets: torch.Tensor,
) -> None:
    """SwiGLU and FP8 in one pass; see `kernels.swiglu_quantise_kernel` for shapes."""
    max_rows, inter = values.shape
    tiles_per_row = -(-inter // (TILE_GROUPS * kernels.BLOCK))
    kernels.swiglu_quantise_kernel[(min(max_rows * tiles_per_row, MAX_SWIGLU_PROGRAMS),)](
        up_gate,
        values,
        scale,
        expert_offsets,
        INTER=inter,
        L=expert_offsets.shape[0] - 1,
        BLOCK=kernels.BLOCK,
        TILE_GROUPS=TILE_GROUPS,
        num_warps=4,
    )


def combine(
    results: torch.Tensor,
    rows: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """Add up every token's pairs; see `kernels.combine_kernel` for shapes."""
    num_tokens, hidden = output.shape
    num_local = counts.shape[0]
    tile_h = min(MAX_TILE_H, triton.next_power_of_2(hidden))
    kernels.combine_kernel[(num_tokens, -(-hidden // tile_h))](
        results,
        rows,
        weights,
        output,
        counts,
        H=hidden,
        L=num_local,
        TOP_K=TOP_K,
        TILE_H=tile_h,
        L_POW2=triton.next_power_of_2(num_local),
        num_warps=4,
    )
