"""FP8 block-scale MoE on sgl_kernel's grouped GEMM, without copies for SwiGLU."""

import torch
from sgl_kernel import fp8_blockwise_scaled_grouped_mm, prepare_moe_input, shuffle_rows

from .activation import quantise, swiglu
from .routing import TOP_K, route
from .workspace import Workspace, get_workspace


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
        ws = get_workspace(device, num_local, hidden, inter)

        local_ids, weights = route(
            routing_logits, routing_bias, int(local_expert_offset), float(routed_scaling_factor)
        )

        # prepare_moe_input counts ids in [0, L) only and leaves the entries of other pairs alone: their
        # source row becomes token 0 (read, never used), their result row the zero row behind the last.
        source_rows = torch.zeros(pairs, dtype=torch.int32, device=device)
        result_rows = torch.full((pairs,), pairs, dtype=torch.int32, device=device)
        prepare_moe_input(
            local_ids,
            ws.expert_offsets,
            ws.sizes1,
            ws.sizes2,
            source_rows,
            result_rows,
            num_local,
            inter,
            hidden,
        )

        token_scale = hidden_states_scale.t().contiguous()  # [T, H / 128]
        x = shuffle_rows(hidden_states, source_rows, (pairs, hidden))
        x_scale = shuffle_rows(token_scale, source_rows, (pairs, token_scale.shape[1]))

        up_and_gate = torch.empty(pairs, 2 * inter, dtype=torch.bfloat16, device=device)
        _grouped_gemm(
            up_and_gate,
            x,
            x_scale,
            gemm1_weights,
            gemm1_weights_scale,
            ws.stride_hidden,
            ws.stride_up_gate,
            ws.sizes1,
            ws,
        )

        activated, activated_scale = quantise(swiglu(up_and_gate))

        results = torch.empty(pairs + 1, hidden, dtype=torch.bfloat16, device=device)
        results[pairs].zero_()
        _grouped_gemm(
            results[:pairs],
            activated,
            activated_scale,
            gemm2_weights,
            gemm2_weights_scale,
            ws.stride_inter,
            ws.stride_hidden,
            ws.sizes2,
            ws,
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


def _grouped_gemm(
    out: torch.Tensor,
    a: torch.Tensor,
    a_scale: torch.Tensor,
    weights: torch.Tensor,
    weights_scale: torch.Tensor,
    stride_ab: torch.Tensor,
    stride_c: torch.Tensor,
    problem_sizes: torch.Tensor,
    ws: Workspace,
) -> None:
    """out[rows of expert e] = a[rows of expert e] @ weights[e].T, both dequantised by 128-blocks.

    Rows past the last expert's are left as they are.

    Args:
        out: [P, N] bfloat16, written.
        a: [P, K] float8_e4m3fn, rows sorted by expert.
        a_scale: [P, K / 128] float32.
        weights: [L, N, K] float8_e4m3fn.
        weights_scale: [L, N / 128, K / 128] float32.
        stride_ab: [L] int64, all K.
        stride_c: [L] int64, all N.
        problem_sizes: [L, 3] int32, (rows, N, K) of every expert.
        ws: overwritten.
    """
    fp8_blockwise_scaled_grouped_mm(
        out,
        ws.a_ptrs,
        ws.b_ptrs,
        ws.out_ptrs,
        ws.a_scale_ptrs,
        ws.b_scale_ptrs,
        a,
        weights.transpose(1, 2),  # the op wants [L, K, N] views of K-major storage
        a_scale,
        weights_scale.transpose(1, 2),
        stride_ab,
        stride_ab,
        stride_c,
        ws.layout_sfa,
        ws.layout_sfb,
        problem_sizes,
        ws.expert_starts,
        ws.gemm,
    )
