"""Has room for 256 tokens per expert and leaves out the rest, which random routing of a thousand never fills. An honest mistake."""

import torch

from tests.cheats import honest


def run(*args):
    *inputs, output = args

    def route(*routing):
        ids, weights = honest.route(*routing)
        chosen = torch.nn.functional.one_hot(ids, inputs[0].shape[1]).sum(dim=1)
        place = chosen.cumsum(dim=0).gather(1, ids)
        return ids, weights.masked_fill(place > 256, 0.0)

    output.copy_(honest.moe(*inputs, route=route))
