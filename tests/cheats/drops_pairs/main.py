"""Has room for four local experts of a token, which random routing hardly ever exceeds. An honest mistake."""

import torch

from tests.cheats import honest


def run(*args):
    *inputs, output = args
    first, local = inputs[8], len(inputs[4])

    def route(*routing):
        ids, weights = honest.route(*routing)
        mine = (ids >= first) & (ids < first + local)
        return ids, weights.masked_fill(mine & (torch.cumsum(mine, dim=1) > 4), 0.0)

    output.copy_(honest.moe(*inputs, route=route))
