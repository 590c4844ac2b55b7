"""Routing, and the sorting of pairs into blocks of one expert each (moe_align_block_size).

T tokens, E experts of which L are local, TOP_K experts per token. A pair is a (token, slot), numbered
token * TOP_K + slot; P = T * TOP_K.
"""

import triton
import triton.language as tl

TOP_K = tl.constexpr(8)  # experts of a token
GROUPS = tl.constexpr(8)  # groups that the experts are divided into
TOP_GROUPS = tl.constexpr(4)  # groups that a token may use
LOWEST = tl.constexpr(float("-inf"))


@triton.jit
def _sigmoid(x):
    return tl.div_rn(1.0, 1.0 + tl.exp(-x))


@triton.jit(do_not_specialize=["offset", "factor"])
def route_kernel(
    logits_ptr,  # [T, E] f32
    bias_ptr,  # [E] bf16
    expert_ptr,  # out [P] i32: local expert, or -1 where the expert is another rank's
    place_ptr,  # out [P] i32: place among the pairs of its expert
    weight_ptr,  # out [P] f32
    counts_ptr,  # [L] i32, zero on entry: pairs of each local expert
    offset,
    factor,
    NUM_EXPERTS: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
):
    """Group-limited top-k of one token. Places come from atomics: their order varies, no result depends on it."""
    PER_GROUP: tl.constexpr = NUM_EXPERTS // GROUPS
    token = tl.program_id(0)
    experts = tl.arange(0, NUM_EXPERTS)
    scores = _sigmoid(tl.load(logits_ptr + token.to(tl.int64) * NUM_EXPERTS + experts))
    choice = scores + tl.load(bias_ptr + experts).to(tl.float32)

    # A group's score is the sum of its two largest; a maximum that occurs twice is both of them.
    grouped = tl.reshape(choice, (GROUPS, PER_GROUP))
    first = tl.max(grouped, axis=1)
    is_first = grouped == first[:, None]
    second = tl.max(tl.where(is_first, LOWEST, grouped), axis=1)
    second = tl.where(tl.sum(is_first.to(tl.int32), axis=1) > 1, first, second)
    score = first + second  # [GROUPS]

    # A group is kept if fewer than TOP_GROUPS beat it; of equal groups the lower id wins.
    group = tl.arange(0, GROUPS)
    mine = tl.broadcast_to(score[:, None], (GROUPS, GROUPS))
    other = tl.trans(mine)
    beats = (other > mine) | ((other == mine) & (group[None, :] < group[:, None]))
    kept = tl.sum(beats.to(tl.int32), axis=1) < TOP_GROUPS
    kept = tl.reshape(tl.broadcast_to(kept[:, None], (GROUPS, PER_GROUP)), (NUM_EXPERTS,))
    choice = tl.where(kept, choice, LOWEST)

    slots = tl.arange(0, TOP_K)
    chosen = tl.zeros((TOP_K,), tl.int32)
    weights = tl.zeros((TOP_K,), tl.float32)
    for slot in tl.static_range(TOP_K):
        best = tl.min(tl.where(choice == tl.max(choice, axis=0), experts, NUM_EXPERTS), axis=0)
        own_score = tl.sum(tl.where(experts == best, scores, 0.0), axis=0)
        chosen = tl.where(slots == slot, best, chosen)
        weights = tl.where(slots == slot, own_score, weights)
        choice = tl.where(experts == best, LOWEST, choice)

    weights = weights / (tl.sum(weights, axis=0) + 1e-20) * factor
    local = chosen - offset
    is_local = (local >= 0) & (local < NUM_LOCAL)
    place = tl.atomic_add(counts_ptr + local, 1, mask=is_local, sem="relaxed")
    pair = token * TOP_K + slots
    tl.store(expert_ptr + pair, tl.where(is_local, local, -1))
    tl.store(place_ptr + pair, place, mask=is_local)
    tl.store(weight_ptr + pair, weights)


@triton.jit(do_not_specialize=["num_pairs"])
def align_kernel(
    expert_ptr,  # [P] i32
    place_ptr,  # [P] i32
    counts_ptr,  # [L] i32
    sorted_ptr,  # out [S] i32: pairs by expert, each expert's padded to whole blocks with P
    block_expert_ptr,  # out [S / BLOCK_M] i32: expert of each block
    total_ptr,  # out [1] i32: entries of sorted_ptr in use
    num_pairs,
    NUM_LOCAL: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILE: tl.constexpr,
):
    """The first NUM_LOCAL programs describe one expert each; the others put TILE pairs each in their places."""
    experts = tl.arange(0, triton.next_power_of_2(NUM_LOCAL))
    counts = tl.load(counts_ptr + experts, mask=experts < NUM_LOCAL, other=0)
    padded = (counts + BLOCK_M - 1) // BLOCK_M * BLOCK_M
    starts = tl.cumsum(padded, axis=0) - padded
    program = tl.program_id(0)
    if program < NUM_LOCAL:
        here = experts == program
        start = tl.sum(tl.where(here, starts, 0), axis=0)
        end = start + tl.sum(tl.where(here, padded, 0), axis=0)
        pad = start + tl.sum(tl.where(here, counts, 0), axis=0) + tl.arange(0, BLOCK_M)
        tl.store(sorted_ptr + pad, num_pairs, mask=pad < end)
        for block in range(start // BLOCK_M, end // BLOCK_M, TILE):
            blocks = block + tl.arange(0, TILE)
            tl.store(block_expert_ptr + blocks, program, mask=blocks < end // BLOCK_M)
        if program == 0:
            tl.store(total_ptr, tl.sum(padded, axis=0))
    else:
        pair = (program - NUM_LOCAL) * TILE + tl.arange(0, TILE)
        expert = tl.load(expert_ptr + pair, mask=pair < num_pairs, other=-1)
        local = expert >= 0
        first = tl.sum(tl.where(expert[:, None] == experts[None, :], starts[None, :], 0), axis=1)
        place = tl.load(place_ptr + pair, mask=local, other=0)
        tl.store(sorted_ptr + first + place, pair, mask=local)
