"""FP8 block-scale MoE: four Triton kernels around sgl_kernel's grouped GEMM, buffers per call."""

import torch

from . import launch
from .grouped_gemm import GemmScratch, grouped_gemm
from .kernels import BLOCK


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
    """Write the weighted sum of every token's local experts to `output`. No host sync.

    Args:
        routing_logits: [T, E] float32.
        routing_bias: [E] bfloat16.
        hidden_states: [T, H] float8_e4m3fn.
        hidden_states_scale: [H / 128, T] float32.
        gemm1_weights: [L, 2 * I, H] float8_e4m3fn; the gate is the second half.
        gemm1_weights_scale: [L, 2 * I / 128, H / 128] float32.
        gemm2_weights: [L, H, I] float8_e4m3fn.
        gemm2_weights_scale: [L, H / 128, I / 128] float32.
        local_expert_offset: id of the first local expert.
        routed_scaling_factor: multiplies the normalised combine weights.
        output: [T, H] bfloat16, written.
    """
    with torch.cuda.device_of(hidden_states):  # launches go to the current device
        num_tokens, hidden = hidden_states.shape
        num_local, _, inter = gemm2_weights.shape
        device = hidden_states.device
        top_k = launch.TOP_K
        pairs = num_tokens * top_k  # a bound: their number is known on the device only

        local_ids = torch.empty(num_tokens, top_k, dtype=torch.int32, device=device)
        ranks = torch.empty(num_tokens, top_k, dtype=torch.int32, device=device)
        weights = torch.empty(num_tokens, top_k, dtype=torch.float32, device=device)
        counts = torch.zeros(num_local, dtype=torch.int32, device=device)
        launch.route(
            routing_logits,
            routing_bias,
            int(local_expert_offset),
            float(routed_scaling_factor),
            local_ids,
            ranks,
            weights,
            counts,
        )

        rows = torch.empty(num_tokens, top_k, dtype=torch.int32, device=device)
        x = torch.empty(pairs, hidden, dtype=torch.float8_e4m3fn, device=device)
        x_scale = torch.empty(pairs, hidden // BLOCK, dtype=torch.float32, device=device)
        sizes1 = torch.empty(num_local, 3, dtype=torch.int32, device=device)
        sizes2 = torch.empty(num_local, 3, dtype=torch.int32, device=device)
        expert_offsets = torch.empty(num_local + 1, dtype=torch.int32, device=device)
        launch.dispatch(
            hidden_states,
            hidden_states_scale,
            local_ids,
            ranks,
            counts,
            rows,
            x,
            x_scale,
            sizes1,
            sizes2,
            expert_offsets,
            inter,
        )

        scratch = GemmScratch.allocate(num_local, device)
        up_gate = torch.empty(pairs, 2 * inter, dtype=torch.bfloat16, device=device)
        grouped_gemm(
            up_gate, x, x_scale, gemm1_weights, gemm1_weights_scale, sizes1, expert_offsets, scratch
        )

        values = torch.empty(pairs, inter, dtype=torch.float8_e4m3fn, device=device)
        scale = torch.empty(pairs, inter // BLOCK, dtype=torch.float32, device=device)
        launch.swiglu_quantise(up_gate, values, scale, expert_offsets)

        results = torch.empty(pairs, hidden, dtype=torch.bfloat16, device=device)
        grouped_gemm(
            results,
            values,
            scale,
            gemm2_weights,
            gemm2_weights_scale,
            sizes2,
            expert_offsets,
            scratch,
        )
        launch.combine(results, rows, weights, output, counts)
