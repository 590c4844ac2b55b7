"""Routing, and the copy of token rows into the row order that DeepGEMM's grouped GEMMs want.

T tokens, E experts of which L are local, TOP_K experts per token. A pair is a (token, slot), numbered
token * TOP_K + slot; P = T * TOP_K. Every local expert owns a range of whole blocks of ALIGN rows among the R rows of the
GEMMs' operands: the ranges follow one another without a gap, or, in the masked layout, have CAPACITY rows each. Rows past an
expert's last pair hold garbage that no other row depends on.
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


@triton.jit
def expert_ranges(counts_ptr, NUM_LOCAL: tl.constexpr, ALIGN: tl.constexpr, CAPACITY: tl.constexpr):
    """Experts, their numbers of pairs and first rows, each [next_power_of_2(L)] i32, from the counts alone."""
    experts = tl.arange(0, triton.next_power_of_2(NUM_LOCAL))
    counts = tl.load(counts_ptr + experts, mask=experts < NUM_LOCAL, other=0)
    if CAPACITY > 0:
        starts = experts * CAPACITY
    else:
        padded = (counts + ALIGN - 1) // ALIGN * ALIGN
        starts = tl.cumsum(padded, axis=0) - padded
    return experts, counts, starts


@triton.jit
def scale_start(row, rows, BLOCKS: tl.constexpr, CAPACITY: tl.constexpr):
    """Where the scales of a row begin, and the elements between its scales of neighbouring 128-blocks.

    DeepGEMM wants the rows of a scale matrix next to each other: [BLOCKS, R], or [L, BLOCKS, CAPACITY] if masked.
    """
    if CAPACITY > 0:
        start = row // CAPACITY * (BLOCKS * CAPACITY) + row % CAPACITY
        stride = CAPACITY
    else:
        start = row
        stride = rows
    return start, stride


@triton.jit(do_not_specialize=["x_scale_stride", "rows"])
def dispatch_kernel(
    x_ptr,  # [T, H] f8
    x_scale_ptr,  # [H / BLOCK, T] f32, blocks x_scale_stride apart
    expert_ptr,  # [P] i32
    place_ptr,  # [P] i32
    counts_ptr,  # [L] i32
    row_ptr,  # out [P] i32: row of each local pair
    ends_ptr,  # out [L] i32: the row after each expert's last pair
    a_ptr,  # out [R, H] f8
    a_scale_ptr,  # out f32, see scale_start
    x_scale_stride,
    rows,  # R
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    ALIGN: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    """Copy one token's row and scales to the rows of its local pairs."""
    BLOCKS: tl.constexpr = HIDDEN // BLOCK
    experts, counts, starts = expert_ranges(counts_ptr, NUM_LOCAL, ALIGN, CAPACITY)
    token = tl.program_id(0).to(tl.int64)
    if token == 0:
        tl.store(ends_ptr + experts, starts + counts, mask=experts < NUM_LOCAL)

    slots = tl.arange(0, TOP_K)
    if tl.max(tl.load(expert_ptr + token * TOP_K + slots), axis=0) >= 0:
        h = tl.arange(0, triton.next_power_of_2(HIDDEN))
        x = tl.load(x_ptr + token * HIDDEN + h, mask=h < HIDDEN, other=0.0)
        b = tl.arange(0, triton.next_power_of_2(BLOCKS))
        scale = tl.load(x_scale_ptr + b * x_scale_stride + token, mask=b < BLOCKS, other=0.0)
        for slot in tl.static_range(TOP_K):
            pair = token * TOP_K + slot
            expert = tl.load(expert_ptr + pair)
            if expert >= 0:
                row = tl.sum(tl.where(experts == expert, starts, 0), axis=0)
                row += tl.load(place_ptr + pair)
                tl.store(row_ptr + pair, row)
                row = row.to(tl.int64)
                tl.store(a_ptr + row * HIDDEN + h, x, mask=h < HIDDEN)
                start, stride = scale_start(row, rows, BLOCKS, CAPACITY)
                tl.store(a_scale_ptr + start + b.to(tl.int64) * stride, scale, mask=b < BLOCKS)
