// The shared-memory ring that every product goes through, its producers and the accumulation loop of its consumers.
//
// A stage holds one K step (128) of a tile: 256 weight rows x 128 bytes by TMA, up to kMaxCols token rows x 128 bytes
// gathered by cp.async, one scale per token and two weight scales. Three kinds of producers fill it independently, so that
// weights keep streaming while token rows wait for the kernel's first product.
#pragma once

#include "plan.cuh"
#include "ptx.cuh"
#include "wgmma.cuh"

namespace hopper_v2 {

template <int kMaxCols_, int kStages_>
struct Shape {
  static constexpr int kMaxCols = kMaxCols_;
  static constexpr int kStages = kStages_;
  static constexpr int kColumnBytes = kMaxCols * kScaleBlock;
  static constexpr int kStageBytes = kWeightBytes + kColumnBytes;
  static constexpr int kStagePitch = 144;  // bytes per token in the output staging area: 128 + 16 avoids bank conflicts
  // Offsets in dynamic shared memory, whose base is aligned to 1024 (swizzle atoms).
  static constexpr int kScalesAt = kStages * kStageBytes;         // per stage: [kMaxCols] token scales, [4] weight scales
  static constexpr int kScaleFloats = kMaxCols + 4;
  static constexpr int kStagingAt = kScalesAt + kStages * kScaleFloats * 4;
  static constexpr int kStagingBytes = kMaxCols * kStagePitch;
  static constexpr int kBytes = kStagingAt + kStagingBytes;
  static_assert(kScalesAt % 16 == 0 && kStagingAt % 16 == 0, "vector access");
};

struct Barriers {
  static constexpr int kMaxStages = 8;
  uint64_t full[kMaxStages];
  uint64_t empty[kMaxStages];
};

template <class S>
struct Ring {
  uint8_t* base;
  Barriers* bars;
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ Ring(uint8_t* smem, Barriers* barriers) : base(smem), bars(barriers) {}

  __device__ __forceinline__ uint32_t weights() const { return smem_addr(base) + stage * S::kStageBytes; }
  __device__ __forceinline__ uint32_t columns() const { return weights() + kWeightBytes; }
  __device__ __forceinline__ const float* scales() const {
    return reinterpret_cast<const float*>(base + S::kScalesAt) + stage * S::kScaleFloats;
  }
  __device__ __forceinline__ uint32_t full() const { return smem_addr(&bars->full[stage]); }
  __device__ __forceinline__ uint32_t empty() const { return smem_addr(&bars->empty[stage]); }
  __device__ __forceinline__ void wait_full() const { mbar_wait(full(), parity); }
  // A new barrier counts as having completed the phase before its first: producers start without waiting.
  __device__ __forceinline__ void wait_empty() const { mbar_wait(empty(), parity ^ 1); }
  __device__ __forceinline__ void advance() {
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <class S>
__device__ __forceinline__ void init_barriers(Barriers& b) {
  for (int i = 0; i < S::kStages; ++i) {
    mbar_init(smem_addr(&b.full[i]), 1 + kRowLoaderThreads + kScaleLoaderThreads);
    mbar_init(smem_addr(&b.empty[i]), kConsumerWarps);
  }
  fence_mbar_init();
}

// Weights, by one thread. Nothing here depends on results of this kernel: GEMM2's weights follow GEMM1's without a pause.
template <class S>
__device__ __forceinline__ void produce_weights(const Problem& p, const Plan& plan, Ring<S> ring, const CUtensorMap* w13,
                                                const CUtensorMap* w2) {
  const bool evict_first = plan.active <= kEvictFirstExperts;
  const uint64_t policy = policy_evict_first();
  Walk walk(p, plan);
  Segment s;
  while (walk.next(p, plan, s)) {
    const CUtensorMap* map = s.phase ? w2 : w13;
    // First rows of the two boxes. W2 with an odd number of 128-row blocks: the last box reads a neighbour's rows or, past
    // the end of the tensor, zeros; its results are dropped.
    const int row0 = s.phase ? s.expert * p.hidden + s.block * kBoxes * kBoxRows
                             : s.expert * 2 * p.inter + s.block * kBoxRows;
    const int row1 = row0 + (s.phase ? kBoxRows : p.inter);
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
      mbar_arrive_expect(ring.full(), kWeightBytes);
      if (evict_first) {
        tma_load_2d(ring.weights(), map, k * kScaleBlock, row0, ring.full(), policy);
        tma_load_2d(ring.weights() + kBoxBytes, map, k * kScaleBlock, row1, ring.full(), policy);
      } else {
        tma_load_2d(ring.weights(), map, k * kScaleBlock, row0, ring.full());
        tma_load_2d(ring.weights() + kBoxBytes, map, k * kScaleBlock, row1, ring.full());
      }
      ring.advance();
    }
  }
}

// Columns are computed in multiples for which an instruction shape is instantiated.
template <int kMaxCols>
__host__ __device__ constexpr int padded_columns(int cols) {
  if (kMaxCols <= 16) return cols <= 8 ? 8 : 16;
  if (kMaxCols <= 64) return cols <= 8 ? 8 : cols <= 16 ? 16 : cols <= 32 ? 32 : 64;
  return cols <= 16 ? 16 : (cols + 15) / 16 * 16;
}

// Token rows, by 64 threads (`id`): thread t copies bytes 16 (t % 8) .. + 16 of rows t / 8, t / 8 + 8, ... Row r lies at
// r * 128 and its 16-byte pieces are permuted by XOR with r % 8, the layout that wgmma reads in 128-byte swizzle mode.
// Padding columns repeat the last token: their results are dropped. `offsets` is shared memory: rows of a warp are used by
// that warp only.
template <class S>
__device__ __forceinline__ void produce_rows(const Problem& p, const Plan& plan, Ring<S> ring, uint32_t (&offsets)[S::kMaxCols],
                                             int id) {
  const int piece = id % 8;
  const int row = id / 8;
  const uint32_t dst = row * kScaleBlock + ((piece ^ row) * 16);
  Walk walk(p, plan);
  Segment s;
  while (walk.next(p, plan, s)) {
    const int passes = padded_columns<S::kMaxCols>(s.cols) / 8;
    const uint8_t* source = (s.phase ? p.act : p.x) + piece * 16;
    const uint32_t pitch = s.phase ? p.inter : p.hidden;
    __syncwarp();
    for (int i = piece; i < passes; i += 8) {
      const int r = min(i * 8 + row, s.cols - 1);
      const uint32_t from = s.phase ? s.row + r : __ldcg(p.pair_token + s.expert * p.tokens + s.slot + r);
      offsets[i * 8 + row] = from * pitch;
    }
    __syncwarp();
    if (s.phase) warp_spin_until(p.control.ready + s.group, p.inter / kScaleBlock);
    source += s.k0 * kScaleBlock;
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
      const uint32_t to = ring.columns() + dst;
#pragma unroll 4
      for (int i = 0; i < passes; ++i) cp_async_16(to + i * 8 * kScaleBlock, source + offsets[i * 8 + row]);
      cp_async_arrive(ring.full());
      source += kScaleBlock;
      ring.advance();
    }
  }
}

// Scales, by one warp: one per token, and the two weight blocks' by lanes 0 and 1.
template <class S>
__device__ __forceinline__ void produce_scales(const Problem& p, const Plan& plan, Ring<S> ring) {
  constexpr int kPasses = (S::kMaxCols + 31) / 32;
  const int lane = threadIdx.x % 32;
  const int steps1 = p.hidden / kScaleBlock;
  const int steps2 = p.inter / kScaleBlock;
  Walk walk(p, plan);
  Segment s;
  while (walk.next(p, plan, s)) {
    const int cols = padded_columns<S::kMaxCols>(s.cols);
    const float* source = s.phase ? p.act_scale : p.x_scale;
    const size_t pitch = s.phase ? p.act_rows : p.tokens;
    int offset[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int r = min(i * 32 + lane, s.cols - 1);
      offset[i] = s.phase ? s.row + r : __ldcg(p.pair_token + s.expert * p.tokens + s.slot + r);
    }
    const float* block_scale;
    if (s.phase) {
      const int block = min(kBoxes * s.block + (lane & 1), steps1 - 1);
      block_scale = p.w2_scale + (static_cast<size_t>(s.expert) * steps1 + block) * steps2;
    } else {
      const int block = s.block + (lane & 1) * steps2;
      block_scale = p.w13_scale + (static_cast<size_t>(s.expert) * 2 * steps2 + block) * steps1;
    }
    if (s.phase) warp_spin_until(p.control.ready + s.group, steps2);
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
      const uint32_t to = smem_addr(ring.scales());
#pragma unroll
      for (int i = 0; i < kPasses; ++i) {
        const int c = i * 32 + lane;
        if (c < cols) cp_async_4(to + c * 4, source + k * pitch + offset[i]);
      }
      if (lane < kBoxes) cp_async_4(to + (S::kMaxCols + lane) * 4, block_scale + k);
      cp_async_arrive(ring.full());
      ring.advance();
    }
  }
}

// acc += scale * partial for one box: scale = token scale (per column) x weight block scale.
template <int N>
__device__ __forceinline__ void promote(float (&acc)[N / 2], const float (&partial)[N / 2], const float* token_scale,
                                        float block_scale) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
    const float2 t = *reinterpret_cast<const float2*>(token_scale + 8 * j + column);
    const float s0 = t.x * block_scale;
    const float s1 = t.y * block_scale;
    acc[4 * j + 0] = fmaf(partial[4 * j + 0], s0, acc[4 * j + 0]);
    acc[4 * j + 1] = fmaf(partial[4 * j + 1], s1, acc[4 * j + 1]);
    acc[4 * j + 2] = fmaf(partial[4 * j + 2], s0, acc[4 * j + 2]);
    acc[4 * j + 3] = fmaf(partial[4 * j + 3], s1, acc[4 * j + 3]);
  }
}

// Accumulates the segment's K steps into acc[box]. Warpgroup g multiplies rows 64 g .. 64 g + 63 of either box, so that in
// GEMM1 a thread holds the up and the gate value of the same element. The tensor core's fp8 accumulation is exact enough
// for one scale block only; across blocks the sum is kept in fp32 registers.
template <class S, int N>
__device__ __forceinline__ void accumulate(Ring<S>& ring, int steps, float (&acc)[kBoxes][N / 2]) {
  const int group = threadIdx.x / 128;
#pragma unroll
  for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) acc[b][i] = 0.0f;
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    ring.wait_full();
    fence_async_shared();  // token rows came by cp.async
    const uint64_t a = operand_descriptor(ring.weights() + group * 64 * kScaleBlock);
    const uint64_t b = operand_descriptor(ring.columns());
    constexpr uint64_t kBox = kBoxBytes >> 4;
    constexpr uint64_t kStep = 32 >> 4;  // K of one instruction, in descriptor units
    const float* scales = ring.scales();
    if constexpr (N <= 64) {
      float partial[kBoxes][N / 2];
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < kScaleBlock / 32; ++k) {
        Wgmma<N>::mma(partial[0], a + k * kStep, b + k * kStep, k != 0);
        Wgmma<N>::mma(partial[1], a + kBox + k * kStep, b + k * kStep, k != 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers(partial[0]);
      pin_registers(partial[1]);
      promote<N>(acc[0], partial[0], scales, scales[S::kMaxCols]);
      promote<N>(acc[1], partial[1], scales, scales[S::kMaxCols + 1]);
    } else {
      // Registers hold one box's partial sums at a time; the other warpgroup keeps the tensor cores busy meanwhile.
#pragma unroll
      for (int box = 0; box < kBoxes; ++box) {
        float partial[N / 2];
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < kScaleBlock / 32; ++k) {
          Wgmma<N>::mma(partial, a + box * kBox + k * kStep, b + k * kStep, k != 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        pin_registers(partial);
        promote<N>(acc[box], partial, scales, scales[S::kMaxCols + box]);
      }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbar_arrive(ring.empty());
    ring.advance();
  }
}

}  // namespace hopper_v2
