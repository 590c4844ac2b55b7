"""DeepSeek-V3 group-limited routing in PyTorch, and the local experts' ids."""

import torch

NUM_GROUPS = 8
TOP_GROUPS = 4
TOP_K = 8


def route(
    logits: torch.Tensor, bias: torch.Tensor, local_offset: int, scaling_factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts by sigmoid(logits) + bias, weight them by sigmoid(logits) alone.

    `sgl_kernel.moe_fused_gate` would save about ten launches, but it divides by the bare sum of the
    chosen scores: where all of them underflow it gives NaN, the operation gives 0.

    Args:
        logits: [T, E] float32.
        bias: [E] bfloat16.
        local_offset: id of the first local expert.
        scaling_factor: multiplies the normalised weights.

    Returns:
        ids relative to `local_offset`, [T, TOP_K] int32: a local expert's id lies in [0, L), any
        other outside; weights [T, TOP_K] float32.
    """
    num_tokens, num_experts = logits.shape
    scores = torch.sigmoid(logits)  # [T, E]
    choice = scores + bias  # [T, E]; bfloat16 promotes to float32 exactly

    # The order within a top-k is of no use here, so it is not paid for (sorted=False).
    grouped = choice.view(num_tokens, NUM_GROUPS, num_experts // NUM_GROUPS)
    group_scores = grouped.topk(2, dim=-1, sorted=False).values.sum(dim=-1)  # [T, NUM_GROUPS]
    kept = group_scores.topk(TOP_GROUPS, dim=-1, sorted=False).indices
    dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
    candidates = grouped.masked_fill(dropped[:, :, None], float("-inf")).view_as(choice)
    ids = candidates.topk(TOP_K, dim=-1, sorted=False).indices  # [T, TOP_K] int64

    weights = scores.gather(1, ids)
    weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20) * scaling_factor
    return (ids - local_offset).to(torch.int32), weights
