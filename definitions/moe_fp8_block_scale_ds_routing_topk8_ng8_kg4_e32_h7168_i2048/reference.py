"""Ground truth of the DeepSeek-V3 FP8 block-scale MoE operation, in plain PyTorch and float32.

The code is dimension-generic: sizes come from tensor shapes, only the routing constants are fixed. It follows the
published contract step by step and favours clarity over speed. Block scales are expanded to the full shape of what they
scale, for all local experts, as the published reference does: the latency of this function is the numerator of every
speedup, and a cheaper formulation would make speedups incomparable with published ones.
"""

import torch

BLOCK = 128  # one scale per 128 elements along a row, per 128 x 128 elements of a weight
NUM_GROUPS = 8  # experts are routed in 8 groups
TOP_GROUPS = 4  # of which a token may use 4
TOP_K = 8  # experts per token


def expand_blocks(scale: torch.Tensor, *dims: int) -> torch.Tensor:
    """Repeat every element of `scale` BLOCK times along each of `dims`."""
    for dim in dims:
        scale = scale.repeat_interleave(BLOCK, dim=dim)
    return scale


def route(
    logits: torch.Tensor, bias: torch.Tensor, scaling_factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """DeepSeek-V3 group-limited top-k routing.

    Experts are chosen by sigmoid(logits) + bias and combined by sigmoid(logits) alone.

    Args:
        logits: [T, E] float32.
        bias: [E], added to the scores for the choice only.
        scaling_factor: multiplies the normalised weights.

    Returns:
        expert ids [T, TOP_K] int64 and their combine weights [T, TOP_K] float32.
    """
    num_tokens, num_experts = logits.shape
    scores = torch.sigmoid(logits.float())  # [T, E]
    choice = scores + bias.float()  # [T, E]

    grouped = choice.view(num_tokens, NUM_GROUPS, num_experts // NUM_GROUPS)
    group_scores = grouped.topk(2, dim=-1).values.sum(dim=-1)  # [T, NUM_GROUPS]
    kept_groups = group_scores.topk(TOP_GROUPS, dim=-1).indices  # [T, TOP_GROUPS]
    dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept_groups, False)
    candidates = grouped.masked_fill(dropped[:, :, None], float("-inf")).view_as(choice)

    ids = candidates.topk(TOP_K, dim=-1).indices  # [T, TOP_K]
    weights = scores.gather(1, ids)
    weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20) * scaling_factor
    return ids, weights


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
) -> torch.Tensor:
    """Route every token, run the local experts it chose, and add up their weighted outputs.

    Args:
        routing_logits: [T, E] float32.
        routing_bias: [E] bfloat16.
        hidden_states: [T, H] float8_e4m3fn.
        hidden_states_scale: [H / BLOCK, T] float32; block-major, may be negative like every scale here.
        gemm1_weights: [L, 2 * I, H] float8_e4m3fn; rows 0..I-1 give the up projection, rows I..2I-1 the gate.
        gemm1_weights_scale: [L, 2 * I / BLOCK, H / BLOCK] float32.
        gemm2_weights: [L, H, I] float8_e4m3fn.
        gemm2_weights_scale: [L, H / BLOCK, I / BLOCK] float32.
        local_expert_offset: id of the first of the L experts held here; any integer.
        routed_scaling_factor: multiplies the normalised combine weights.

    Returns:
        [T, H] bfloat16; exact zeros for a token none of whose experts is local.
    """
    num_local, _, hidden = gemm1_weights.shape
    inter = gemm2_weights.shape[2]
    num_tokens = hidden_states.shape[0]

    x = hidden_states.float() * expand_blocks(hidden_states_scale.t(), 1)  # [T, H]
    w13 = gemm1_weights.float() * expand_blocks(gemm1_weights_scale, 1, 2)  # [L, 2I, H]
    w2 = gemm2_weights.float() * expand_blocks(gemm2_weights_scale, 1, 2)  # [L, H, I]

    ids, weights = route(routing_logits, routing_bias, routed_scaling_factor)

    output = torch.zeros(num_tokens, hidden, dtype=torch.float32, device=x.device)
    for local in range(num_local):
        tokens, slots = torch.nonzero(ids == int(local_expert_offset) + local, as_tuple=True)
        if tokens.numel() == 0:
            continue
        up_and_gate = x[tokens] @ w13[local].t()  # [pairs, 2I]
        up, gate = up_and_gate[:, :inter], up_and_gate[:, inter:]
        activated = torch.nn.functional.silu(gate) * up  # [pairs, I]
        expert_out = activated @ w2[local].t()  # [pairs, H]
        output.index_add_(0, tokens, expert_out * weights[tokens, slots, None])
    return output.to(torch.bfloat16)
