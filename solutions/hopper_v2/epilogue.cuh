// What happens to finished accumulators: summing split tiles, SwiGLU + quantisation (GEMM1), weighting (GEMM2).
//
// Throughout, acc[box][i] of a consumer thread is row 64 * warpgroup + 16 * (warp % 4) + lane / 4 + 8 * (i / 2 % 2) of the box
// and column (token) 8 * (i / 4) + 2 * (lane % 4) + i % 2.
#pragma once

#include <cuda_fp8.h>

#include "pipeline.cuh"

namespace hopper_v2 {

constexpr int kEpilogueBarrier = 1;  // 0 is __syncthreads

__device__ __forceinline__ void consumer_barrier() { named_barrier<kConsumerThreads>(kEpilogueBarrier); }

// Static shared memory of the consumers.
template <class S>
struct EpilogueShared {
  float amax[kConsumerWarps][S::kMaxCols];
  float inverse[S::kMaxCols];
  float weight[S::kMaxCols];
  int token[S::kMaxCols];
  Segment segment[kConsumerWarps];  // parked here during the accumulation, which needs the registers
  int last;
};

// threadIdx.x, but opaque: otherwise the compiler computes every epilogue address ahead of the accumulation loops and spills
// them there.
__device__ __forceinline__ int thread_index() {
  int t;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(t));
  return t;
}

// First row of thread `tid` in a box: 64 * warpgroup + 16 * (warp % 4) = 16 * warp, plus lane / 4.
__device__ __forceinline__ int box_row(int tid) { return tid / 32 * 16 + tid % 32 / 4; }

// Sums a tile cut over several thread blocks. Each leaves its accumulators in a slot of its own, in register order, so
// nothing needs zeroing; the one whose K steps complete the tile adds the others' and goes on. Returns whether this is it.
template <class S, int N>
__device__ __forceinline__ bool complete_tile(const Problem& p, const Plan& plan, const Segment& s, EpilogueShared<S>& shared,
                                              float (&acc)[kBoxes][N / 2]) {
  const int steps = tile_steps(p, s.phase);
  if (s.k1 - s.k0 == steps) return true;
  const int tid = thread_index();
  const int groups = plan.group_base[p.experts];
  const int total = groups * tile_blocks(p, s.phase) * steps;
  // Slot numbers: from one segment to the next the tile, the thread block or both go up, so their sum is unique.
  const long long first_slot = s.phase ? static_cast<long long>(groups) * tile_blocks(p, 0) + gridDim.x : 0;
  float4* slots = reinterpret_cast<float4*>(p.partial) + (first_slot + s.tile) * (p.partial_slot / 4) + tid;
  const long long pitch = p.partial_slot / 4;

  float4* own = slots + blockIdx.x * pitch;
#pragma unroll
  for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      __stcg(own + (b * (N / 8) + i) * kConsumerThreads,
             make_float4(acc[b][4 * i], acc[b][4 * i + 1], acc[b][4 * i + 2], acc[b][4 * i + 3]));
    }
  }
  __threadfence();
  consumer_barrier();
  if (tid == 0) {
    int* arrivals = (s.phase ? p.control.arrivals2 : p.control.arrivals1) + s.tile;
    shared.last = add_acq_rel(arrivals, s.k1 - s.k0) + s.k1 - s.k0 == steps;
  }
  consumer_barrier();
  if (!shared.last) return false;
  __threadfence();
  const int first = range_owner(s.tile * steps, total);
  const int last = range_owner(s.tile * steps + steps - 1, total);
#pragma unroll(N <= 16 ? 4 : 1)
  for (int c = first; c <= last; ++c) {
    const bool other = c != static_cast<int>(blockIdx.x) && range_start(c, total) != range_start(c + 1, total);
#pragma unroll
    for (int b = 0; b < kBoxes; ++b) {
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        if (other) {
          const float4 v = __ldcg(slots + c * pitch + (b * (N / 8) + i) * kConsumerThreads);
          acc[b][4 * i] += v.x;
          acc[b][4 * i + 1] += v.y;
          acc[b][4 * i + 2] += v.z;
          acc[b][4 * i + 3] += v.w;
        }
      }
    }
  }
  return true;
}

// GEMM1: act = silu(gate) * up for 128 columns of the intermediate, quantised with one scale per token, then published.
template <class S, int N>
__device__ __forceinline__ void finish_gemm1(const Problem& p, const Segment& s, EpilogueShared<S>& shared, uint8_t* staging,
                                             float (&acc)[kBoxes][N / 2]) {
  const int tid = thread_index();
  const int lane = tid % 32;
  float(&v)[N / 2] = acc[0];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const float gate = acc[1][i];
    v[i] = acc[0][i] * __fdividef(gate, 1.0f + __expf(-gate));
  }
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      float m = fmaxf(fabsf(v[4 * j + b]), fabsf(v[4 * j + 2 + b]));
#pragma unroll
      for (int d = 4; d < 32; d *= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, d));
      if (lane < 4) shared.amax[tid / 32][8 * j + 2 * lane + b] = m;
    }
  }
  consumer_barrier();
  if (tid < N) {
    float m = 0.0f;
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) m = fmaxf(m, shared.amax[w][tid]);
    // Below this the inverse would overflow, and the values do not matter.
    const bool zero = m < 1e-30f;
    shared.inverse[tid] = zero ? 0.0f : kFp8Max / m;
    if (tid < s.cols) p.act_scale[static_cast<size_t>(s.block) * p.act_rows + s.row + tid] = zero ? 0.0f : m / kFp8Max;
  }
  consumer_barrier();
  const int row = box_row(tid);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
    const __nv_fp8_storage_t q =
        __nv_cvt_float_to_fp8(v[i] * shared.inverse[column], __NV_SATFINITE, __NV_E4M3);
    staging[column * S::kStagePitch + row + 8 * (i / 2 % 2)] = q;
  }
  consumer_barrier();
  for (int i = tid; i < s.cols * 8; i += kConsumerThreads) {
    const int column = i / 8, piece = i % 8;
    const uint4 q = *reinterpret_cast<const uint4*>(staging + column * S::kStagePitch + piece * 16);
    __stcg(reinterpret_cast<uint4*>(p.act + static_cast<size_t>(s.row + column) * p.inter + s.block * kScaleBlock) + piece,
           q);
  }
  __threadfence();
  consumer_barrier();
  if (tid == 0) red_add_release(p.control.ready + s.group, 1);
}

// GEMM2, small T: adds the weighted rows of this segment to the fp32 output. Split tiles need no other treatment.
template <class S, int N>
__device__ __forceinline__ void add_gemm2(const Problem& p, const Segment& s, EpilogueShared<S>& shared,
                                          float (&acc)[kBoxes][N / 2]) {
  const int tid = thread_index();
  consumer_barrier();  // the previous segment's readers of `token` and `weight`
  if (tid < s.cols) {
    const int pair = s.expert * p.tokens + s.slot + tid;
    shared.token[tid] = __ldcg(p.pair_token + pair);
    shared.weight[tid] = __ldcg(p.pair_weight + pair);
  }
  consumer_barrier();
  const int column0 = 2 * (tid % 4);
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * j + column0 + c;
      if (column < s.cols) {
        const float w = shared.weight[column];
        float* out = p.out_acc + static_cast<size_t>(shared.token[column]) * p.hidden;
#pragma unroll
        for (int b = 0; b < kBoxes; ++b) {
          const int first = (kBoxes * s.block + b) * kBoxRows;
          if (first < p.hidden) {
            red_add_f32(out + first + box_row(tid), w * acc[b][4 * j + c]);
            red_add_f32(out + first + box_row(tid) + 8, w * acc[b][4 * j + 2 + c]);
          }
        }
      }
    }
  }
}

// GEMM2, large T: writes the weighted expert outputs as bf16 rows, which `combine` sums per token. They pass through shared
// memory, 64 tokens of one box at a time, so that whole 16-byte pieces reach device memory.
template <class S, int N>
__device__ __forceinline__ void store_gemm2(const Problem& p, const Segment& s, EpilogueShared<S>& shared, uint8_t* staging,
                                            float (&acc)[kBoxes][N / 2]) {
  constexpr int kPitch = 2 * kBoxRows + 16;  // bytes per token
  constexpr int kChunk = 64;
  static_assert(kChunk * kPitch <= S::kStagingBytes, "staging area");
  const int tid = thread_index();
  const int lane = tid % 32;
  consumer_barrier();  // the previous segment's readers of `weight` and of the staging area
  if (tid < N) shared.weight[tid] = tid < s.cols ? __ldcg(p.pair_weight + s.expert * p.tokens + s.slot + tid) : 0.0f;
#pragma unroll
  for (int b = 0; b < kBoxes; ++b) {
    const int first = (kBoxes * s.block + b) * kBoxRows;
#pragma unroll
    for (int start = 0; start < N; start += kChunk) {
      consumer_barrier();
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        if (i / 4 * 8 >= start && i / 4 * 8 < start + kChunk) {
          const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
          *reinterpret_cast<__nv_bfloat16*>(staging + (column - start) * kPitch + 2 * (box_row(tid) + 8 * (i / 2 % 2))) =
              __float2bfloat16_rn(acc[b][i] * shared.weight[column]);
        }
      }
      consumer_barrier();
      const int columns = first < p.hidden ? min(kChunk, s.cols - start) : 0;
      for (int i = tid; i < columns * 16; i += kConsumerThreads) {
        const int column = i / 16, piece = i % 16;
        const uint4 q = *reinterpret_cast<const uint4*>(staging + column * kPitch + piece * 16);
        __nv_bfloat16* out = p.pair_out + static_cast<size_t>(s.row + start + column) * p.hidden + first;
        __stcg(reinterpret_cast<uint4*>(out) + piece, q);
      }
    }
  }
}

// Small T, after every product: the fp32 sums become the bf16 output, zeros included. One share per thread block.
__device__ __forceinline__ void write_output(const Problem& p) {
  const int tid = thread_index();
  __threadfence();
  consumer_barrier();
  if (tid == 0) {
    red_add_release(p.control.done, 1);
    spin_until(p.control.done, gridDim.x);
  }
  consumer_barrier();
  const int total = p.tokens * (p.hidden / 8);
  const float4* acc = reinterpret_cast<const float4*>(p.out_acc);
  for (int i = blockIdx.x * kConsumerThreads + tid; i < total; i += gridDim.x * kConsumerThreads) {
    const float4 a = __ldcg(acc + 2 * i), b = __ldcg(acc + 2 * i + 1);
    __nv_bfloat162 h[4] = {__floats2bfloat162_rn(a.x, a.y), __floats2bfloat162_rn(a.z, a.w),
                           __floats2bfloat162_rn(b.x, b.y), __floats2bfloat162_rn(b.z, b.w)};
    reinterpret_cast<uint4*>(p.out)[i] = *reinterpret_cast<uint4*>(h);
  }
}

}  // namespace hopper_v2
