"""DeepSeek-V3 FP8 block-scale MoE the way SGLang's Triton runner does it: sort into blocks, one tiled GEMM kernel twice."""

from contextlib import nullcontext

import torch

from . import launch
from .tiles import Tile, tile_for
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
    tile: Tile | None = None,
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
        tile: launch parameters of the GEMMs; default: the table's entry for T.
    """
    num_tokens, hidden = hidden_states.shape
    num_local, _, inter = gemm2_weights.shape
    if num_tokens == 0:
        return
    tile = tile or tile_for(num_tokens)
    device = hidden_states.device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        buffers = get_workspace(device).buffers(num_tokens, num_local, hidden, inter, tile.block_m)
        try:
            launch.sort(
                routing_logits,
                routing_bias,
                int(local_expert_offset),
                float(routed_scaling_factor),
                buffers,
                tile,
            )
            launch.grouped_gemm(
                hidden_states,
                hidden_states_scale,
                (1, num_tokens),
                gemm1_weights,
                gemm1_weights_scale,
                buffers.up_gate,
                buffers,
                tile,
                gather=True,
                weighted=False,
            )
            launch.activate(buffers)
            launch.grouped_gemm(
                buffers.values,
                buffers.scale,
                (inter // 128, 1),
                gemm2_weights,
                gemm2_weights_scale,
                buffers.results,
                buffers,
                tile,
                gather=False,
                weighted=True,
            )
            launch.reduce(buffers, output)
        except BaseException:
            drop_workspace(device)
            raise
