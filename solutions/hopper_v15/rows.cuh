// Full groups at large T: the tokens are the M operand and the weights the N operand, 64 tokens x (128 + 128) weight rows a
// warpgroup.
//
// With weights as M a thread's accumulators lie in 32 columns, so it reads 32 token scales per box and 128 of K, and those
// reads take half of the shared memory's cycles, which wgmma needs for its operands. With tokens as M it lies in two
// token rows and reads two. What it loses is the fine step of 8 tokens, so groups of up to Shape::kRowsBeyond tokens have the weights
// as M, and all where warpgroups share tiles of up to 64.
//
// Throughout, acc[box][i] is token 64 g + 16 w + lane / 4 + 8 * (i / 2 % 2) of the group, for warp w of warpgroup g (0 where each has
// a tile), and weight row 8 * (i / 4) + 2 * (lane % 4) + i % 2 of the box. Everything up to the stores to device memory stays within a
// warp.
//
// With groups of up to 128 tokens the warpgroups share a tile's weights, hence the ring, and nothing else: neither waits for the other at
// the end of an item, so that one's epilogue overlaps products of the other, which may be up to a ring of stages behind or ahead. Of a
// group of up to 64 tokens the second warpgroup has none, and only lets the stages go. Groups that have the weights as M use the staging
// area across all warps, between barriers of both warpgroups: these come after the warps' last use of it here, and there is one after
// their own last use. Where each warpgroup has a tile (T = 129 to 1,200) it has a staging area for itself, and the same holds of its own
// barrier.
#pragma once

#include <cstddef>

#include "epilogue.cuh"

namespace hopper_v15 {

constexpr int kRowsBarrier = 6;  // and 7: one per warpgroup
constexpr int kRowsThreads = 128;
constexpr int kRowsTokens = 64;  // of a warpgroup

// Until all of a stage is there, for wgmma too; `bars` is Barriers::full.
template <class S>
__device__ __forceinline__ void wait_stage(uint32_t bars, uint32_t stage, uint32_t parity) {
  if constexpr (S::kLandedApart) {
    const uint32_t landed = bars + offsetof(Barriers, landed) - offsetof(Barriers, full) + stage * (kBoxes * 8);
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) mbar_wait(landed + box * 8, parity);
  }
  mbar_wait(bars + stage * 8, parity);
  if constexpr (!S::kMany) fence_async_shared();  // token rows came by cp.async
}

template <class S>
__device__ __forceinline__ void accumulate_rows(Ring<S>& ring, int steps, float (&acc)[kBoxes][kBoxRows / 2]) {
  static_assert(S::kMaxCols * S::kTeams == 2 * kRowsTokens);
  constexpr uint32_t kStage = S::kStageBytes >> 4;
  constexpr uint32_t kBox = S::kBoxBytes >> 4;
  constexpr uint32_t kColumns = S::kWeightBytes >> 4;
  constexpr uint32_t kHalf = 64 * kScaleBlock >> 4;
  constexpr uint32_t kChunk = S::kChunkBytes >> 4;
  constexpr uint32_t kColumnChunk = S::kColumnBytes >> 4;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
    for (int i = 0; i < kBoxRows / 2; ++i) acc[b][i] = 0.0f;
  }
  // All that the loop needs is in registers, so that little but the promotion lies between a box and the next.
  steps = uniform(steps);
  uint32_t stage = uniform(ring.stage);
  uint32_t parity = uniform(ring.parity);
  const uint32_t base = uniform(operand_low(smem_addr(ring.base)));
  const uint32_t half = S::kTeams == 1 ? uniform(threadIdx.x / 128) * kHalf : 0;
  const uint32_t bars = opaque(smem_addr(&ring.bars->full[0]));
  constexpr uint32_t kEmpty = offsetof(Barriers, empty) - offsetof(Barriers, full);
  const uint32_t warp = (S::kTeams == 1 ? threadIdx.x : threadIdx.x % S::kTeamThreads) / 32;
  const uint32_t my_scales = opaque(smem_addr(ring.base) + S::kScalesAt + (warp * 16 + lane / 4) * 4);
  const uint32_t block_scales = opaque(smem_addr(ring.base) + S::kScalesAt + S::kBlockScalesAt * 4);
  float partial[kBoxRows / 2];
  const auto issue = [&](uint32_t tokens, uint32_t weights) {
    wgmma_begin();
    multiply_low<kBoxRows>(partial, tokens, weights);
    wgmma_commit();
  };
  const auto promote_rows = [&](float (&sum)[kBoxRows / 2], float s0, float s1) {
#pragma unroll
    for (int j = 0; j < kBoxRows / 2; j += 4) {
      sum[j + 0] = fmaf(partial[j + 0], s0, sum[j + 0]);
      sum[j + 1] = fmaf(partial[j + 1], s0, sum[j + 1]);
      sum[j + 2] = fmaf(partial[j + 2], s1, sum[j + 2]);
      sum[j + 3] = fmaf(partial[j + 3], s1, sum[j + 3]);
    }
  };
  wait_stage<S>(bars, stage, parity);
  uint32_t weights = base + stage * kStage;
  issue(weights + kColumns + half, weights);
  // An iteration begins while box 0 of a step's first chunk is multiplied and ends when that of the next step has been issued.
#pragma unroll 1
  for (int left = steps;;) {
    const uint32_t at = stage * (S::kChunks * S::kScaleFloats * 4);
    const uint32_t empty = bars + kEmpty + stage * 8;
    float s0, s1;
#pragma unroll
    for (int c = 0; c < S::kChunks; ++c) {
      const uint32_t chunk_at = at + c * (S::kScaleFloats * 4);
      s0 = load_shared(my_scales + chunk_at);
      s1 = load_shared(my_scales + chunk_at + 32);
      float block_scale = load_shared(block_scales + chunk_at);
      wgmma_wait<0>();
      pin_registers(partial);
      promote_rows(acc[0], s0 * block_scale, s1 * block_scale);
      issue(weights + kColumns + half + c * kColumnChunk, weights + kBox + c * kChunk);
      // While the products run: the scales again, which costs fewer registers than to keep them, and a look at the next stage.
      s0 = load_shared(my_scales + chunk_at);
      s1 = load_shared(my_scales + chunk_at + 32);
      block_scale = load_shared(block_scales + chunk_at + 4);
      s0 *= block_scale;
      s1 *= block_scale;
      if (c + 1 < S::kChunks) {
        wgmma_wait<0>();
        pin_registers(partial);
        promote_rows(acc[1], s0, s1);
        issue(weights + kColumns + half + (c + 1) * kColumnChunk, weights + (c + 1) * kChunk);
      }
    }
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
    parity ^= stage == 0;
    weights = base + stage * kStage;
    const bool ready = S::kTeams == 1 && mbar_test_wait(bars + stage * 8, parity);
    if constexpr (S::kTeams == 1 && !S::kMany) fence_async_shared();  // of use if it is ready
    wgmma_wait<0>();
    pin_registers(partial);
    __syncwarp();
    if (lane == 0) mbar_arrive(empty);  // all of the stage has been read
    if (--left == 0) {
      promote_rows(acc[1], s0, s1);
      break;
    }
    promote_rows(acc[1], s0, s1);
    if (!ready) wait_stage<S>(bars, stage, parity);
    issue(weights + kColumns + half, weights);
  }
  ring.stage = stage;
  ring.parity = parity;
}

// By a warpgroup that has no token of a group: lets the stages go. It waits for each, since an arrival must not count for the round
// before.
template <class S>
__device__ __forceinline__ void pass_stages(Ring<S>& ring, int steps) {
  for (int step = 0; step < steps; ++step) {
    mbar_wait(ring.full(), ring.parity);
    __syncwarp();
    if (threadIdx.x % 32 == 0) ring.release();
    ring.advance();
  }
}

// A warp's part of the staging area: 16 token rows.
template <class S>
__device__ __forceinline__ uint8_t* warp_staging(uint8_t* staging, int tid) {
  return staging + tid / 32 * 16 * S::kStagePitch;
}

// As complete_tile, by each warpgroup for its own tokens. Only tiles that warpgroups share come here cut.
template <class S>
__device__ __forceinline__ bool complete_rows(const Problem& p, const Plan& plan, const Segment& s, EpilogueShared<S>& shared,
                                              float (&acc)[kBoxes][kBoxRows / 2]) {
  if constexpr (S::kTeams == 2 || S::kMany) return true;
  if (s.pieces == 1) return true;
  const int tid = team_thread<S>();
  const int group = tid / kRowsThreads;
  const bool mine = tid / 32 * 16 + tid % 32 / 4 < s.cols;  // the first of this thread's two tokens
  return sum_pieces<S, kRowsThreads>(p, partial_place<S>(p, plan, s) + group, s.pieces, tid % kRowsThreads, kRowsBarrier + group,
                                  shared.rows_last[group], [&](int) { return mine; }, acc);
}

// GEMM1: act = silu(gate) * up, one scale per token and 128 columns, then published.
template <class S>
__device__ __forceinline__ void finish_gemm1_rows(const Problem& p, const Segment& s, uint8_t* staging,
                                                  float (&acc)[kBoxes][kBoxRows / 2]) {
  const int tid = team_thread<S>();
  const int lane = tid % 32;
  const int row0 = tid / 32 * 16;  // first token of this warp
  uint8_t* mine = warp_staging<S>(staging, tid);
  float amax[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < kBoxRows / 2; ++i) {
    const float gate = acc[1][i];
    acc[0][i] *= __fdividef(gate, 1.0f + __expf(-gate));
    amax[i / 2 % 2] = fmaxf(amax[i / 2 % 2], fabsf(acc[0][i]));
  }
  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    amax[h] = fmaxf(amax[h], __shfl_xor_sync(~0u, amax[h], 1));
    amax[h] = fmaxf(amax[h], __shfl_xor_sync(~0u, amax[h], 2));
    // Below this the inverse would overflow, and the values do not matter.
    const bool zero = amax[h] < 1e-30f;
    inverse[h] = zero ? 0.0f : kFp8Max / amax[h];
    const int row = row0 + lane / 4 + 8 * h;
    if (lane % 4 == 0 && row < s.cols) {
      p.act_scale[static_cast<size_t>(s.block) * p.act_rows + s.row + row] = zero ? 0.0f : amax[h] / kFp8Max;
    }
  }
#pragma unroll
  for (int i = 0; i < kBoxRows / 2; i += 2) {
    const int h = i / 2 % 2;
    const __nv_fp8x2_storage_t q = __nv_cvt_float2_to_fp8x2(
        make_float2(acc[0][i] * inverse[h], acc[0][i + 1] * inverse[h]), __NV_SATFINITE, __NV_E4M3);
    const int column = 8 * (i / 4) + 2 * (lane % 4);
    *reinterpret_cast<__nv_fp8x2_storage_t*>(mine + (lane / 4 + 8 * h) * S::kStagePitch + column) = q;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * 4 + lane / 8;
    if (row0 + row < s.cols) {
      const uint4 q = *reinterpret_cast<const uint4*>(mine + row * S::kStagePitch + lane % 8 * 16);
      uint8_t* to = p.act + static_cast<size_t>(s.row + row0 + row) * p.inter + s.block * kScaleBlock;
      if constexpr (S::kKeepsRows) {
        store_16(to + lane % 8 * 16, q, policy_evict_last());
      } else {
        __stcg(reinterpret_cast<uint4*>(to) + lane % 8, q);
      }
    }
  }
  static_assert(S::kReadyPerTile == S::kTeamThreads / kRowsThreads);
  if constexpr (S::kTeams == 2) {
    team_barrier<S>();  // then one thread releases
  } else {
    named_barrier<kRowsThreads>(kRowsBarrier + tid / kRowsThreads);  // the same
  }
  // For the other warpgroup, too, if it has no token.
  const int tiles = S::kTeams == 1 && s.cols <= kRowsTokens ? S::kReadyPerTile : 1;
  if (tid % kRowsThreads == 0) red_add_release(p.zero.ready + s.group, tiles);
}

// GEMM2: writes or adds weighted rows as bf16, 64 columns at a time: whole 128-byte lines of a token.
template <class S>
__device__ __forceinline__ void put_gemm2_rows(const Problem& p, const Segment& s, const Lists& lists, uint8_t* staging,
                                               float (&acc)[kBoxes][kBoxRows / 2]) {
  const int tid = team_thread<S>();
  const int lane = tid % 32;
  const int row0 = tid / 32 * 16;
  uint8_t* mine = warp_staging<S>(staging, tid);
  // Lane l < 16 knows of token l of this warp.
  const int known = row0 + lane % 16;
  const bool valid = known < s.cols;
  const int pair = lists.at(p, s) + known;
  const float weight = valid ? lists.weight[pair] : 0.0f;
  const int token = valid ? lists.token[pair] : 0;
  const float w0 = __shfl_sync(~0u, weight, lane / 4);
  const float w1 = __shfl_sync(~0u, weight, lane / 4 + 8);
#pragma unroll
  for (int b = 0; b < kBoxes; ++b) {
    const int first = (kBoxes * s.block + b) * kBoxRows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      __syncwarp();  // readers of what lay here
#pragma unroll
      for (int i = 32 * half; i < 32 * half + 32; i += 2) {
        const int h = i / 2 % 2;
        const float w = h ? w1 : w0;
        const int column = 8 * (i / 4 - 8 * half) + 2 * (lane % 4);
        *reinterpret_cast<__nv_bfloat162*>(mine + (lane / 4 + 8 * h) * S::kStagePitch + 2 * column) =
            __floats2bfloat162_rn(acc[b][i] * w, acc[b][i + 1] * w);
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i * 4 + lane / 8;
        const int to = __shfl_sync(~0u, token, row);
        if (row0 + row < s.cols && first < p.hidden) {
          const uint4 q = *reinterpret_cast<const uint4*>(mine + row * S::kStagePitch + lane % 8 * 16);
          put_row<S>(p, to, first + 64 * half + lane % 8 * 8, q);
        }
      }
    }
  }
}

template <class S>
__device__ __forceinline__ void run_rows(const Problem& p, const Plan& plan, const Lists& lists, int steps, Ring<S>& ring,
                                         EpilogueShared<S>& shared, uint8_t* staging) {
  if constexpr (S::kTeams == 1) {
    const Segment& s = shared.segment[threadIdx.x / 32];
    if (s.cols <= kRowsTokens && threadIdx.x >= kRowsThreads) {
      pass_stages<S>(ring, steps);
      return;
    }
  }
  float acc[kBoxes][kBoxRows / 2];
  accumulate_rows<S>(ring, steps, acc);
  if constexpr (S::kTeams == 2) pass_turn(ring);
  const Segment& s = shared.segment[team_thread<S>() / 32];
  if (s.phase == 0) {
    if (complete_rows<S>(p, plan, s, shared, acc)) finish_gemm1_rows<S>(p, s, staging, acc);
  } else {
    put_gemm2_rows<S>(p, s, lists, staging, acc);
  }
}

}  // namespace hopper_v15
