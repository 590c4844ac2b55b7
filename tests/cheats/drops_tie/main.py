"""Chooses by comparison with the eighth score: where several share it, none of them is used."""

import torch

from tests.cheats import honest


def route(logits, bias, factor):
    ids, _ = honest.route(logits, bias, factor)
    scores = torch.sigmoid(logits)
    choice = scores + bias.float()
    groups = choice.view(len(choice), 8, -1)
    kept = groups.topk(2).values.sum(-1).topk(4).indices
    in_kept = torch.zeros(groups.shape[:2], dtype=torch.bool, device=ids.device).scatter_(
        1, kept, True
    )
    allowed = groups.masked_fill(~in_kept[:, :, None], -torch.inf).view_as(choice)
    top = allowed.topk(9).values
    tied = top[:, 7:8] == top[:, 8:9]
    weights = scores.gather(1, ids)
    weights = weights.masked_fill(tied & (choice.gather(1, ids) <= top[:, 7:8]), 0.0)
    return ids, weights / (weights.sum(-1, keepdim=True) + 1e-20) * factor


def run(*args):
    *inputs, output = args
    output.copy_(honest.moe(*inputs, route=route))
