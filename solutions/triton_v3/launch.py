"""Grids and launch parameters of the Triton kernels."""

import torch
import triton

from . import kernels

NUM_GROUPS = 8
TOP_GROUPS = 4
TOP_K = 8
MAX_TILE_I = 1024  # 8 bfloat16, 16 bytes, for each of 128 threads
TILE_ROWS = 32
# Kernels that stride over the rows in use: this many programs fill 132 SMs with 8 each.
MAX_PROGRAMS = 1056
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


def swap_halves(up_gate: torch.Tensor, expert_offsets: torch.Tensor) -> None:
    """Exchange the halves of the rows in use; see `kernels.swap_halves_kernel` for shapes."""
    max_rows, inter = up_gate.shape[0], up_gate.shape[1] // 2
    tile = min(MAX_TILE_I, triton.next_power_of_2(inter))
    kernels.swap_halves_kernel[(min(max_rows * -(-inter // tile), MAX_PROGRAMS),)](
        up_gate,
        expert_offsets,
        INTER=inter,
        L=expert_offsets.shape[0] - 1,
        TILE=tile,
        num_warps=4,
    )


def unpack_scale(packed: torch.Tensor, scale: torch.Tensor, expert_offsets: torch.Tensor) -> None:
    """Packed exponents to float32; see `kernels.unpack_scale_kernel` for shapes.

    `packed` is [ceil(G / 4), P] int32 of at least as many rows as `scale` [P, G] has.
    """
    max_rows, groups = scale.shape
    kernels.unpack_scale_kernel[(min(-(-max_rows // TILE_ROWS), MAX_PROGRAMS),)](
        packed.view(torch.uint8),
        scale,
        expert_offsets,
        packed.shape[1],
        G=groups,
        G_POW2=triton.next_power_of_2(groups),
        L=expert_offsets.shape[0] - 1,
        TILE_ROWS=TILE_ROWS,
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
