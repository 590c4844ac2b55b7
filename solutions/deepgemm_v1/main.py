"""DeepSeek-V3 FP8 block-scale MoE: DeepGEMM's grouped GEMMs with four Triton kernels around them."""

from contextlib import nullcontext

import torch

from . import launch
from .gemm import grouped_gemm, set_alignment
from .layouts import Layout, expected_rows, layout_for
from .workspace import drop_workspace, get_workspace


@torch.no_grad()
def run(
    routing_logits: torch.Tensor,
    routing_bias: torch.Tensor,
    hidden_states: torch.Tensor,
    hidden_states_scale: torch.Tensor,
    gemm1_weights: torch.Tensor,
    gemm1_weights_scale: torch.Tensor,
    gemm2_weights: torch.Tensor,
    gemm2_weights_scale: torch.Tensor,
    local_expert_offset: int,
    routed_scaling_factor: float,
    output: torch.Tensor,
) -> None:
    """The entry point: `run_with` and the table's choice. flashinfer-bench wants exactly these parameters."""
    run_with(
        routing_logits,
        routing_bias,
        hidden_states,
        hidden_states_scale,
        gemm1_weights,
        gemm1_weights_scale,
        gemm2_weights,
        gemm2_weights_scale,
        local_expert_offset,
        routed_scaling_factor,
        output,
    )


def run_with(
    routing_logits: torch.Tensor,
    routing_bias: torch.Tensor,
    hidden_states: torch.Tensor,
    hidden_states_scale: torch.Tensor,
    gemm1_weights: torch.Tensor,
    gemm1_weights_scale: torch.Tensor,
    gemm2_weights: torch.Tensor,
    gemm2_weights_scale: torch.Tensor,
    local_expert_offset: int,
    routed_scaling_factor: float,
    output: torch.Tensor,
    layout: Layout | None = None,
) -> None:
    """Write the weighted sum of every token's local experts to `output`. No host sync.

    Args:
        routing_logits: [T, E] f32.
        routing_bias: [E] bf16, added to the scores for the choice only.
        hidden_states: [T, H] f8 e4m3fn.
        hidden_states_scale: [H / 128, T] f32, signed.
        gemm1_weights: [L, 2I, H] f8 e4m3fn; the gate is the second half.
        gemm1_weights_scale: [L, 2I / 128, H / 128] f32, signed.
        gemm2_weights: [L, H, I] f8 e4m3fn.
        gemm2_weights_scale: [L, H / 128, I / 128] f32, signed.
        local_expert_offset: id of the first local expert.
        routed_scaling_factor: multiplies the normalised combine weights.
        output: [T, H] bf16, written in full.
        layout: row layout of the GEMMs; default: the table's entry for T.
    """
    num_tokens, hidden = hidden_states.shape
    num_local, _, inter = gemm2_weights.shape
    if num_tokens == 0:
        return
    layout = layout or layout_for(num_tokens)
    expected = expected_rows(num_tokens, routing_logits.shape[1])
    device = hidden_states.device
    # Launches go to the current device.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        buffers = get_workspace(device).buffers(num_tokens, num_local, hidden, inter, layout)
        set_alignment(layout)
        try:
            launch.route(
                routing_logits,
                routing_bias,
                int(local_expert_offset),
                float(routed_scaling_factor),
                buffers,
            )
            launch.dispatch(hidden_states, hidden_states_scale, buffers, layout)
            grouped_gemm(
                buffers.a,
                buffers.a_scale,
                gemm1_weights,
                gemm1_weights_scale,
                buffers.up_gate,
                buffers.counts,
                buffers.ends,
                layout,
                expected,
            )
            launch.activate(buffers, layout)
            grouped_gemm(
                buffers.values,
                buffers.scale,
                gemm2_weights,
                gemm2_weights_scale,
                buffers.results,
                buffers.counts,
                buffers.ends,
                layout,
                expected,
            )
            launch.combine(buffers, output)
        except BaseException:
            drop_workspace(device)
            raise
