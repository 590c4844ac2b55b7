"""Routing: group-limited top-k of every token, and the row list of every local expert, in one launch."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

TOP_K = tl.constexpr(8)  # experts of a token
GROUPS = tl.constexpr(8)  # groups that the experts are divided into
TOP_GROUPS = tl.constexpr(4)  # groups that a token may use
LOWEST = tl.constexpr(-(2**31))


@triton.jit
def _sigmoid(x):
    return tl.div_rn(1.0, 1.0 + tl.exp(-x))


@triton.jit(do_not_specialize=["num_tokens", "offset", "factor"])
def route_kernel(
    logits_ptr,  # [T, E] f32
    bias_ptr,  # [E] bf16
    counts_ptr,  # [L] i32, zero on entry: pairs of each local expert
    rows_ptr,  # [L, T] i32: the pairs of each expert, as token * TOP_K + slot
    expert_ptr,  # [T, TOP_K] i32: local expert of each slot, -1 where it is another rank's
    weight_ptr,  # [T, TOP_K] f32: combine weight of each slot
    num_tokens,
    offset,
    factor,
    NUM_EXPERTS: tl.constexpr,
    NUM_LOCAL: tl.constexpr,
    PDL: tl.constexpr,
):
    """One token per program, one warp per program: every reduction stays inside a warp.

    Rows get their place in an expert's list by an atomic counter, so their order varies between calls. Nothing computed
    from a row depends on its place, so the output does not vary.
    """
    if PDL:
        gdc_launch_dependents()
    token = tl.program_id(0)
    experts = tl.arange(0, NUM_EXPERTS)
    logits = tl.load(logits_ptr + token.to(tl.int64) * NUM_EXPERTS + experts)
    choice = _sigmoid(logits) + tl.load(bias_ptr + experts).to(tl.float32)

    # Sum of the two largest of each group; a maximum that occurs twice is both of them.
    grouped = tl.reshape(choice, (GROUPS, NUM_EXPERTS // GROUPS))
    first = tl.max(grouped, axis=1)
    is_first = grouped == first[:, None]
    second = tl.max(tl.where(is_first, float("-inf"), grouped), axis=1)
    second = tl.where(tl.sum(is_first.to(tl.int32), axis=1) > 1, first, second)
    score = first + second  # [GROUPS]

    # A group is kept if fewer than TOP_GROUPS groups beat it; of equal groups the lower id wins.
    group = tl.arange(0, GROUPS)
    # The same values along the other axis, without a layout change that needs shared memory.
    mine = tl.broadcast_to(score[:, None], (GROUPS, GROUPS))
    other = tl.trans(mine)
    beats = (other > mine) | ((other == mine) & (group[None, :] < group[:, None]))
    kept = tl.sum(beats.to(tl.int32), axis=1) < TOP_GROUPS

    # Integers in the order of the floats: a maximum over integers is one instruction per warp on recent GPUs.
    bits = choice.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = tl.where(
        tl.reshape(tl.broadcast_to(kept[:, None], (GROUPS, NUM_EXPERTS // GROUPS)), (NUM_EXPERTS,)),
        key,
        LOWEST,
    )
    slots = tl.arange(0, TOP_K)
    chosen = tl.zeros((TOP_K,), tl.int32)
    for slot in tl.static_range(TOP_K):
        best = tl.min(tl.where(key == tl.max(key, axis=0), experts, NUM_EXPERTS), axis=0)
        chosen = tl.where(slots == slot, best, chosen)
        key = tl.where(experts == best, LOWEST, key)

    weights = _sigmoid(tl.load(logits_ptr + token.to(tl.int64) * NUM_EXPERTS + chosen))
    weights = weights / (tl.sum(weights, axis=0) + 1e-20) * factor
    local = chosen - offset
    is_local = (local >= 0) & (local < NUM_LOCAL)
    place = tl.atomic_add(counts_ptr + local, 1, mask=is_local, sem="relaxed")
    pair = token * TOP_K + slots
    tl.store(rows_ptr + local.to(tl.int64) * num_tokens + place, pair, mask=is_local)
    tl.store(expert_ptr + pair, tl.where(is_local, local, -1))
    tl.store(weight_ptr + pair, weights)


@triton.jit
def load_blocks(counts_ptr, NUM_LOCAL: tl.constexpr, BLOCK_N: tl.constexpr):
    """Row blocks of every local expert, from the counts alone: every program derives the tile list by itself.

    Returns expert ids, counts, row blocks and running totals of row blocks, each [next_power_of_2(L)] i32.
    """
    experts = tl.arange(0, triton.next_power_of_2(NUM_LOCAL))
    counts = tl.load(counts_ptr + experts, mask=experts < NUM_LOCAL, other=0)
    blocks = (counts + BLOCK_N - 1) // BLOCK_N
    return experts, counts, blocks, tl.cumsum(blocks, axis=0)


@triton.jit
def find_block(block, experts, counts, blocks, ends, BLOCK_N: tl.constexpr):
    """Expert of a row block, its number of rows, and the block's first row in the expert's list."""
    expert = tl.sum((ends <= block).to(tl.int32), axis=0)
    here = experts == expert
    count = tl.sum(tl.where(here, counts, 0), axis=0)
    begin = tl.sum(tl.where(here, ends - blocks, 0), axis=0)
    return expert, count, (block - begin) * BLOCK_N
