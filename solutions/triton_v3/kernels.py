"""Triton kernels around the two grouped GEMMs and the SwiGLU: route, dispatch, swap, unpack, combine.

T tokens, E experts of which L are local, K = TOP_K experts per token, H hidden and I intermediate
size. A pair is a (token, local expert) of the routing; the GEMMs see one row per pair, rows sorted
by expert. How many pairs there are is known on the device only, so buffers hold T * K rows and
kernels read the count.
"""

import triton
import triton.language as tl

BLOCK = 128  # elements that share one scale


@triton.jit(do_not_specialize=["local_offset", "scaling_factor"])
def route_kernel(
    logits_ptr,  # [T, E] float32
    bias_ptr,  # [E] bfloat16
    local_ids_ptr,  # [T, TOP_K] int32, written: id in [0, L), or -1
    ranks_ptr,  # [T, TOP_K] int32, written: rank among its expert's pairs, or -1
    weights_ptr,  # [T, TOP_K] float32, written
    counts_ptr,  # [L] int32, zero on entry: pairs of every local expert on exit
    local_offset,
    scaling_factor,
    E: tl.constexpr,
    L: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    TOP_K: tl.constexpr,
):
    """DeepSeek-V3 routing of one token, and the rank of each of its pairs within the expert.

    Ranks come from atomics, so the order of an expert's rows may differ from call to call; no
    row's value depends on its place.
    """
    PER_GROUP: tl.constexpr = E // GROUPS
    token = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, GROUPS)
    member = tl.arange(0, PER_GROUP)
    expert_2d = group[:, None] * PER_GROUP + member[None, :]  # [GROUPS, PER_GROUP]

    logits = tl.load(logits_ptr + token * E + expert_2d)
    score_2d = 1.0 / (1.0 + tl.exp(-logits))
    choice = score_2d + tl.load(bias_ptr + expert_2d).to(tl.float32)

    # A group's score is the sum of its two best experts.
    best = tl.max(choice, axis=1)  # [GROUPS]
    where_best = tl.argmax(choice, axis=1)
    without_best = tl.where(member[None, :] == where_best[:, None], float("-inf"), choice)
    group_score = best + tl.max(without_best, axis=1)

    # A group is kept if fewer than TOP_GROUPS are better; the lower index wins a tie.
    other = group_score[None, :]
    own = group_score[:, None]
    better = (other > own) | ((other == own) & (group[None, :] < group[:, None]))
    num_better = tl.sum(better.to(tl.int32), axis=1)  # [GROUPS]
    kept = tl.where(num_better[:, None] < TOP_GROUPS, choice, float("-inf"))

    candidates = tl.reshape(kept, [E])
    scores = tl.reshape(score_2d, [E])
    expert = tl.arange(0, E)
    slot = tl.arange(0, TOP_K)
    chosen_scores = tl.zeros([TOP_K], dtype=tl.float32)
    for k in tl.static_range(TOP_K):
        chosen = tl.argmax(candidates, axis=0)
        score = tl.sum(tl.where(expert == chosen, scores, 0.0), axis=0)
        chosen_scores = tl.where(slot == k, score, chosen_scores)
        candidates = tl.where(expert == chosen, float("-inf"), candidates)

        # Scalar atomics in a branch: most chosen experts are not local.
        local_id = chosen - local_offset
        if (local_id >= 0) & (local_id < L):
            rank = tl.atomic_add(counts_ptr + local_id, 1, sem="relaxed")
            tl.store(local_ids_ptr + token * TOP_K + k, local_id)
            tl.store(ranks_ptr + token * TOP_K + k, rank)
        else:
            tl.store(local_ids_ptr + token * TOP_K + k, -1)
            tl.store(ranks_ptr + token * TOP_K + k, -1)

    total = tl.sum(chosen_scores, axis=0) + 1e-20
    tl.store(weights_ptr + token * TOP_K + slot, chosen_scores / total * scaling_factor)


@triton.jit(do_not_specialize=["scale_stride"])
def dispatch_kernel(
    x_ptr,  # [T, H] float8_e4m3fn
    x_scale_ptr,  # [H / BLOCK, T] float32, blocks scale_stride apart
    local_ids_ptr,  # [T, TOP_K] int32
    ranks_ptr,  # [T, TOP_K] int32
    counts_ptr,  # [L] int32
    rows_ptr,  # [T, TOP_K] int32, written: the pair's row in the sorted order, or -1
    sorted_x_ptr,  # [T * TOP_K, H] float8_e4m3fn, one row written per pair
    sorted_scale_ptr,  # [T * TOP_K, H / BLOCK] float32, likewise
    sizes1_ptr,  # [L, 3] int32, written: (rows, 2 * I, H)
    sizes2_ptr,  # [L, 3] int32, written: (rows, H, I)
    expert_offsets_ptr,  # [L + 1] int32, written: first row of every expert, then their total
    scale_stride,
    H: tl.constexpr,
    INTER: tl.constexpr,
    L: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
    H_POW2: tl.constexpr,
    SCALES_POW2: tl.constexpr,
    L_POW2: tl.constexpr,
):
    """Copy one token's row and scales to the rows of its pairs; program 0 describes the GEMMs."""
    NUM_SCALES: tl.constexpr = H // BLOCK
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, L_POW2)
    count = tl.load(counts_ptr + expert, mask=expert < L, other=0)

    if token == 0:
        start = tl.cumsum(count, axis=0) - count
        tl.store(expert_offsets_ptr + expert, start, mask=expert < L)
        tl.store(expert_offsets_ptr + L, tl.sum(count, axis=0))
        tl.store(sizes1_ptr + expert * 3, count, mask=expert < L)
        tl.store(sizes1_ptr + expert * 3 + 1, count * 0 + 2 * INTER, mask=expert < L)
        tl.store(sizes1_ptr + expert * 3 + 2, count * 0 + H, mask=expert < L)
        tl.store(sizes2_ptr + expert * 3, count, mask=expert < L)
        tl.store(sizes2_ptr + expert * 3 + 1, count * 0 + H, mask=expert < L)
        tl.store(sizes2_ptr + expert * 3 + 2, count * 0 + INTER, mask=expert < L)

    # Rows must not replace ranks in place: every warp loads the scalars below, and one warp's store
    # could overtake another's load.
    slot = tl.arange(0, TOP_K)
    if tl.max(tl.load(local_ids_ptr + token * TOP_K + slot), axis=0) >= 0:
        h = tl.arange(0, H_POW2)
        x = tl.load(x_ptr + token * H + h, mask=h < H)
        b = tl.arange(0, SCALES_POW2)
        scale = tl.load(x_scale_ptr + b * scale_stride + token, mask=b < NUM_SCALES)
        for k in tl.static_range(TOP_K):
            local_id = tl.load(local_ids_ptr + token * TOP_K + k)
            if local_id >= 0:
                first = tl.sum(tl.where(expert < local_id, count, 0), axis=0)
                row = first + tl.load(ranks_ptr + token * TOP_K + k)
                tl.store(rows_ptr + token * TOP_K + k, row)
                row_64 = row.to(tl.int64)
                tl.store(sorted_x_ptr + row_64 * H + h, x, mask=h < H)
                scale_ptrs = sorted_scale_ptr + row_64 * NUM_SCALES + b
                tl.store(scale_ptrs, scale, mask=b < NUM_SCALES)
            else:
                tl.store(rows_ptr + token * TOP_K + k, -1)
    else:
        tl.store(rows_ptr + token * TOP_K + slot, slot * 0 - 1)


@triton.jit
def swap_halves_kernel(
    rows_ptr,  # [T * TOP_K, 2 * I] bfloat16, halves exchanged in place up to the last pair
    expert_offsets_ptr,  # [L + 1] int32
    INTER: tl.constexpr,
    L: tl.constexpr,
    TILE: tl.constexpr,
):
    """Put the gate first, where sgl_kernel's SwiGLU wants it. Programs stride over the rows in use."""
    TILES: tl.constexpr = (INTER + TILE - 1) // TILE
    num_tiles = tl.load(expert_offsets_ptr + L).to(tl.int64) * TILES  # 64 bits: rows * 2 * INTER
    for item in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        col = (item % TILES) * TILE + tl.arange(0, TILE)
        in_row = col < INTER
        ptrs = rows_ptr + item // TILES * (2 * INTER) + col
        up = tl.load(ptrs, mask=in_row)
        gate = tl.load(ptrs + INTER, mask=in_row)
        tl.store(ptrs, gate, mask=in_row)
        tl.store(ptrs + INTER, up, mask=in_row)


@triton.jit(do_not_specialize=["num_rows"])
def unpack_scale_kernel(
    packed_ptr,  # [ceil(G / 4), T * TOP_K, 4] uint8: exponents of power-of-two scales, biased as in float32
    scale_ptr,  # [T * TOP_K, G] float32, written up to the last pair
    expert_offsets_ptr,  # [L + 1] int32
    num_rows,
    G: tl.constexpr,
    G_POW2: tl.constexpr,
    L: tl.constexpr,
    TILE_ROWS: tl.constexpr,
):
    """2 ** (byte - 127) as float32 in the order that the GEMM reads. Programs stride over the rows in use."""
    used = tl.load(expert_offsets_ptr + L)
    group = tl.arange(0, G_POW2)[None, :]
    for first in range(tl.program_id(0) * TILE_ROWS, used, tl.num_programs(0) * TILE_ROWS):
        row = (first + tl.arange(0, TILE_ROWS))[:, None].to(tl.int64)
        inside = (row < used) & (group < G)
        byte = tl.load(packed_ptr + (group // 4 * num_rows + row) * 4 + group % 4, mask=inside)
        scale = (byte.to(tl.int32) << 23).to(tl.float32, bitcast=True)
        tl.store(scale_ptr + row * G + group, scale, mask=inside)


@triton.jit
def combine_kernel(
    results_ptr,  # [T * TOP_K, H] bfloat16
    rows_ptr,  # [T, TOP_K] int32
    weights_ptr,  # [T, TOP_K] float32
    output_ptr,  # [T, H] bfloat16, written
    counts_ptr,  # [L] int32, set to zero: route_kernel of the next call counts from there
    H: tl.constexpr,
    L: tl.constexpr,
    TOP_K: tl.constexpr,
    TILE_H: tl.constexpr,
    L_POW2: tl.constexpr,
):
    """Weighted float32 sum of one token's pairs, rounded once; zeros where it has none."""
    token = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * TILE_H + tl.arange(0, TILE_H)
    total = tl.zeros([TILE_H], dtype=tl.float32)
    for k in tl.static_range(TOP_K):
        row = tl.load(rows_ptr + token * TOP_K + k)
        if row >= 0:  # a branch, not a mask: rows of no pair hold garbage, NaN included
            weight = tl.load(weights_ptr + token * TOP_K + k)
            result = tl.load(results_ptr + row.to(tl.int64) * H + h, mask=h < H, other=0.0)
            total += weight * result.to(tl.float32)
    tl.store(output_ptr + token * H + h, total.to(output_ptr.dtype.element_ty), mask=h < H)

    if (token == 0) & (tl.program_id(1) == 0):
        expert = tl.arange(0, L_POW2)
        tl.store(counts_ptr + expert, expert * 0, mask=expert < L)
