"""FP8 block-scale MoE: Triton kernels around sgl_kernel's grouped GEMM and its fused SwiGLU and quantisation."""

import torch
from sgl_kernel import fp8_blockwise_scaled_grouped_mm

from . import launch
from .activation import swiglu_quantise
from .workspace import Workspace, get_workspace


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
        ws = get_workspace(hidden_states.device, num_local, hidden, inter)
        buf = ws.begin(num_tokens)

        launch.route(
            routing_logits,
            routing_bias,
            int(local_expert_offset),
            float(routed_scaling_factor),
            buf.local_ids,
            buf.ranks,
            buf.weights,
            ws.counts,
        )
        launch.dispatch(
            hidden_states,
            hidden_states_scale,
            buf.local_ids,
            buf.ranks,
            ws.counts,
            buf.rows,
            buf.x,
            buf.x_scale,
            ws.sizes1,
            ws.sizes2,
            ws.expert_offsets,
            inter,
        )
        _grouped_gemm(
            buf.up_gate,
            buf.x,
            buf.x_scale,
            gemm1_weights,
            gemm1_weights_scale,
            ws.stride_hidden,
            ws.stride_up_gate,
            ws.sizes1,
            ws,
        )
        launch.swap_halves(buf.up_gate, ws.expert_offsets)
        swiglu_quantise(buf.up_gate, buf.values, buf.packed, ws.expert_offsets)
        launch.unpack_scale(buf.packed, buf.scale, ws.expert_offsets)
        _grouped_gemm(
            buf.results,
            buf.values,
            buf.scale,
            gemm2_weights,
            gemm2_weights_scale,
            ws.stride_inter,
            ws.stride_hidden,
            ws.sizes2,
            ws,
        )
        launch.combine(buf.results, buf.rows, buf.weights, output, ws.counts)
        ws.end()


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
        ws: pointer arrays, layouts and scratch are overwritten.
    """
    a_ptrs, b_ptrs, out_ptrs, a_scale_ptrs, b_scale_ptrs = ws.ptrs
    fp8_blockwise_scaled_grouped_mm(
        out,
        a_ptrs,
        b_ptrs,
        out_ptrs,
        a_scale_ptrs,
        b_scale_ptrs,
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
