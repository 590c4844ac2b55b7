"""An honest solution in plain PyTorch, for cheats to spoil in one place. It dequantises the experts that are used."""

import torch

BLOCK, GROUPS, TOP_GROUPS, TOP_K = 128, 8, 4, 8


def choose(choice: torch.Tensor) -> torch.Tensor:
    """Ids [T, TOP_K] of the best experts in the best groups; `choice` [T, E] is score + bias."""
    grouped = choice.view(len(choice), GROUPS, -1)
    scores = grouped.topk(2, dim=-1).values.sum(dim=-1)
    kept = scores.topk(TOP_GROUPS, dim=-1).indices
    dropped = torch.ones_like(scores, dtype=torch.bool).scatter_(1, kept, False)
    return grouped.masked_fill(dropped[:, :, None], -torch.inf).view_as(choice).topk(TOP_K).indices


def route(logits, bias, factor, choose=choose, epsilon=1e-20):
    """Ids and combine weights, both [T, TOP_K]."""
    scores = torch.sigmoid(logits)
    ids = choose(scores + bias.float())
    weights = scores.gather(1, ids)
    return ids, weights / (weights.sum(dim=-1, keepdim=True) + epsilon) * factor


def dequantise(tensor, scale):
    """One expert's weights in float32."""
    return tensor.float() * scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def moe(
    logits, bias, hidden, hidden_scale, w13, w13_scale, w2, w2_scale, offset, factor,
    route=route, dequantise=dequantise, middle=torch.float32,
):  # fmt: skip
    """The operation, [T, H] bf16.

    Args:
        route, dequantise: replacements of the functions above.
        middle: dtype of the intermediate.
    """
    inter = w2.shape[2]
    x = hidden.float() * hidden_scale.t().repeat_interleave(BLOCK, dim=1)
    ids, weights = route(logits, bias, factor)
    output = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    local = ids - offset
    for expert in local[(local >= 0) & (local < len(w13))].unique().tolist():
        tokens, slots = torch.nonzero(local == expert, as_tuple=True)
        both = x[tokens] @ dequantise(w13[expert], w13_scale[expert]).t()
        act = (torch.nn.functional.silu(both[:, inter:]) * both[:, :inter]).to(middle).float()
        result = act @ dequantise(w2[expert], w2_scale[expert]).t()
        output[tokens] += result * weights[tokens, slots, None]
    return output.bfloat16()
