// From tokens per expert to work: which tiles exist and which of them, or which part, each thread block computes.
//
// A group is up to kMaxCols tokens of one expert. A GEMM1 tile is a group x 128 columns of the intermediate (128 up and 128
// gate rows of W13); a GEMM2 tile is a group x 256 rows of W2. A tile is a sequence of K steps of 128.
//
// Two schedules:
// - every active expert has one group: all K steps of all tiles form one line, cut into equal contiguous pieces, one per
//   thread block. Every byte of weights is read once and every multiprocessor reads the same amount, however few experts
//   are active. Tiles cut by a boundary are summed through the workspace.
// - otherwise: whole tiles are dealt out in turn. Groups of one expert are neighbours in that order, so thread blocks that
//   run at the same time read the same weights, which then come from the L2.
#pragma once

#include "params.cuh"

namespace hopper_v2 {

struct Plan {
  int count[kMaxLocalExperts];
  int row_base[kMaxLocalExperts + 1];    // rows of the experts before
  int group_base[kMaxLocalExperts + 1];  // groups of the experts before
  int split;                             // one group per active expert
  int active;                            // experts with at least one token
};

// Called by one whole warp; `plan` is in shared memory.
__device__ __forceinline__ void build_plan(Plan& plan, const int* counts, int experts, int max_cols) {
  const int lane = threadIdx.x % 32;
  int rows = 0, groups = 0, active = 0;
  for (int base = 0; base < experts; base += 32) {
    const int e = base + lane;
    const int n = e < experts ? __ldcg(counts + e) : 0;
    const int g = ceil_div(n, max_cols);
    int row_sum = n, group_sum = g;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int r = __shfl_up_sync(~0u, row_sum, d);
      const int s = __shfl_up_sync(~0u, group_sum, d);
      if (lane >= d) {
        row_sum += r;
        group_sum += s;
      }
    }
    if (e < experts) {
      plan.count[e] = n;
      plan.row_base[e] = rows + row_sum - n;
      plan.group_base[e] = groups + group_sum - g;
    }
    rows += __shfl_sync(~0u, row_sum, 31);
    groups += __shfl_sync(~0u, group_sum, 31);
    active += __popc(__ballot_sync(~0u, n > 0));
  }
  if (lane == 0) {
    plan.row_base[experts] = rows;
    plan.group_base[experts] = groups;
    plan.split = groups == active;
    plan.active = active;
  }
}

// Part of a tile that one thread block accumulates: K steps [k0, k1).
struct Segment {
  int phase;   // 0: GEMM1, 1: GEMM2
  int expert;
  int group;   // index over all groups
  int block;   // GEMM1: 128-column block of the intermediate; GEMM2: 256-row block of W2
  int slot;    // first token of the group in the expert's list
  int cols;    // tokens in the group
  int row;     // first row of the group in `act`
  int tile;    // index over all tiles of the phase
  int k0, k1;
};

// Tiles per group and K steps per tile of a phase. Cheap enough to recompute; registers are scarcer.
__device__ __forceinline__ int tile_blocks(const Problem& p, int phase) {
  return phase ? ceil_div(p.hidden, kBoxes * kBoxRows) : p.inter / kScaleBlock;
}
__device__ __forceinline__ int tile_steps(const Problem& p, int phase) {
  return (phase ? p.inter : p.hidden) / kScaleBlock;
}

// Split schedule: K steps [range_start(b), range_start(b + 1)) of a phase belong to thread block b.
__device__ __forceinline__ int range_start(int block, int total) {
  return static_cast<int>(static_cast<long long>(block) * total / gridDim.x);
}
// The thread block whose range holds K step `pos`.
__device__ __forceinline__ int range_owner(int pos, int total) {
  return static_cast<int>((static_cast<long long>(pos + 1) * gridDim.x - 1) / total);
}

// Enumerates the segments of one thread block. Every role of the block walks the same sequence.
class Walk {
 public:
  __device__ __forceinline__ Walk(const Problem& p, const Plan& plan) { enter(p, plan, 0); }

  __device__ __forceinline__ bool next(const Problem& p, const Plan& plan, Segment& s) {
    while (pos_ >= end_) {
      if (phase_ == 1) return false;
      enter(p, plan, 1);
    }
    const int blocks = tile_blocks(p, phase_);
    const int steps = tile_steps(p, phase_);
    s.phase = phase_;
    if (plan.split) {
      s.tile = pos_ / steps;
      s.k0 = pos_ - s.tile * steps;
      s.k1 = min(steps, s.k0 + end_ - pos_);
      pos_ += s.k1 - s.k0;
    } else {
      s.tile = pos_;
      s.k0 = 0;
      s.k1 = steps;
      pos_ += gridDim.x;
    }
    while (plan.group_base[expert_ + 1] * blocks <= s.tile) ++expert_;
    const int first = plan.group_base[expert_];
    const int groups = plan.group_base[expert_ + 1] - first;
    const int local = s.tile - first * blocks;
    const int g = local % groups;
    const int count = plan.count[expert_];
    const int size = round_up(ceil_div(count, groups), 8);
    s.expert = expert_;
    s.group = first + g;
    s.block = local / groups;
    s.slot = g * size;
    s.cols = min(size, count - s.slot);
    s.row = plan.row_base[expert_] + s.slot;
    return true;
  }

 private:
  __device__ __forceinline__ void enter(const Problem& p, const Plan& plan, int phase) {
    phase_ = phase;
    expert_ = 0;
    const int groups = plan.group_base[p.experts];
    const int tiles = groups * tile_blocks(p, phase);
    if (plan.split) {
      const int total = tiles * tile_steps(p, phase);
      pos_ = range_start(blockIdx.x, total);
      end_ = range_start(blockIdx.x + 1, total);
    } else {
      // GEMM2 tiles go first to the thread blocks that got one GEMM1 tile less.
      const int before = phase ? groups * tile_blocks(p, 0) % gridDim.x : 0;
      pos_ = (blockIdx.x + gridDim.x - before) % gridDim.x;
      end_ = tiles;
    }
  }

  int phase_, pos_, end_, expert_;
};

}  // namespace hopper_v2
