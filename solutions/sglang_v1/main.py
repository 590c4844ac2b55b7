"""FP8 block-scale MoE on sgl_kernel's grouped GEMM, everything allocated per call."""

import torch
from sgl_kernel import prepare_moe_input, shuffle_rows

from .activation import quantise, swiglu
from .grouped_gemm import GemmScratch, grouped_gemm
from .routing import TOP_K, route


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
    """Write the weighted sum of every token's local experts to `output`. No host sync.

    P = T * TOP_K below bounds the (token, local expert) pairs: their number is known on the device
    only. Rows past it hold garbage that nothing reads.

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
        pairs = num_tokens * TOP_K

        local_ids, weights = route(
            routing_logits, routing_bias, int(local_expert_offset), float(routed_scaling_factor)
        )

        # prepare_moe_input counts ids in [0, L) only and leaves the entries of other pairs alone: their
        # source row becomes token 0 (read, never used), their result row the zero row behind the last.
        source_rows = torch.zeros(pairs, dtype=torch.int32, device=device)
        result_rows = torch.full((pairs,), pairs, dtype=torch.int32, device=device)
        expert_offsets = torch.empty(num_local + 1, dtype=torch.int32, device=device)
        sizes1 = torch.empty(num_local, 3, dtype=torch.int32, device=device)
        sizes2 = torch.empty(num_local, 3, dtype=torch.int32, device=device)
        prepare_moe_input(
            local_ids,
            expert_offsets,
            sizes1,
            sizes2,
            source_rows,
            result_rows,
            num_local,
            inter,
            hidden,
        )

        token_scale = hidden_states_scale.t().contiguous()  # [T, H / 128]
        x = shuffle_rows(hidden_states, source_rows, (pairs, hidden))
        x_scale = shuffle_rows(token_scale, source_rows, (pairs, token_scale.shape[1]))

        scratch = GemmScratch.allocate(num_local, device)
        up_and_gate = torch.empty(pairs, 2 * inter, dtype=torch.bfloat16, device=device)
        grouped_gemm(
            up_and_gate,
            x,
            x_scale,
            gemm1_weights,
            gemm1_weights_scale,
            sizes1,
            expert_offsets,
            scratch,
        )

        activated, activated_scale = quantise(swiglu(up_and_gate))

        results = torch.empty(pairs + 1, hidden, dtype=torch.bfloat16, device=device)
        results[pairs].zero_()
        grouped_gemm(
            results[:pairs],
            activated,
            activated_scale,
            gemm2_weights,
            gemm2_weights_scale,
            sizes2,
            expert_offsets,
            scratch,
        )

        # A gather, weighting and float32 sum in one kernel; padding_idx spares it the non-local pairs.
        combined = torch.nn.functional.embedding_bag(
            result_rows.view(num_tokens, TOP_K),
            results,
            mode="sum",
            per_sample_weights=weights.to(torch.bfloat16),
            padding_idx=pairs,
        )
        output.copy_(combined)
