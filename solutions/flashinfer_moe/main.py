"""FP8 block-scale MoE: flashinfer's TensorRT-LLM kernels, routing included."""

import torch
from flashinfer.fused_moe import RoutingMethodType, WeightLayout, trtllm_fp8_block_scale_moe

TOP_K = 8
NUM_GROUPS = 8
TOP_GROUPS = 4


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
    """Write the weighted sum of every token's local experts to `output`.

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
    num_local, _, inter = gemm2_weights.shape
    trtllm_fp8_block_scale_moe(
        routing_logits,
        routing_bias,
        hidden_states,
        hidden_states_scale,
        gemm1_weights,
        gemm1_weights_scale,
        gemm2_weights,
        gemm2_weights_scale,
        num_experts=routing_logits.shape[1],
        top_k=TOP_K,
        n_group=NUM_GROUPS,
        topk_group=TOP_GROUPS,
        intermediate_size=inter,
        local_expert_offset=int(local_expert_offset),
        local_num_experts=num_local,
        routed_scaling_factor=float(routed_scaling_factor),
        routing_method_type=RoutingMethodType.DeepSeekV3.value,
        use_shuffled_weight=False,
        weight_layout=WeightLayout.MajorK.value,
        output=output,
    )
