// Both grouped products in one persistent kernel: gather, GEMM1, SwiGLU, quantisation, GEMM2, weighting and, at small T, the
// combination. One thread block per multiprocessor; all of them must be resident, because token rows of GEMM2 are awaited
// inside the kernel (weights are not, so the ring is full of W2 by the time the intermediate is there).
#pragma once

#include "epilogue.cuh"

namespace hopper_v2 {

template <class S, bool kStorePairs, int N>
__device__ __forceinline__ void run_segment(const Problem& p, const Plan& plan, int steps, Ring<S>& ring,
                                            EpilogueShared<S>& shared, uint8_t* staging) {
  float acc[kBoxes][N / 2];
  accumulate<S, N>(ring, steps, acc);
  const Segment& s = shared.segment[thread_index() / 32];
  if (s.phase == 0) {
    if (complete_tile<S, N>(p, plan, s, shared, acc)) finish_gemm1<S, N>(p, s, shared, staging, acc);
  } else if constexpr (kStorePairs) {
    if (complete_tile<S, N>(p, plan, s, shared, acc)) store_gemm2<S, N>(p, s, shared, staging, acc);
  } else {
    add_gemm2<S, N>(p, s, shared, acc);
  }
}

template <class S, bool kStorePairs>
__device__ __forceinline__ void consume(const Problem& p, const Plan& plan, Ring<S> ring, EpilogueShared<S>& shared,
                                        uint8_t* staging) {
  Walk walk(p, plan);
  Segment s;
  while (walk.next(p, plan, s)) {
    const int cols = padded_columns<S::kMaxCols>(s.cols);
    const int steps = s.k1 - s.k0;
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.segment[threadIdx.x / 32] = s;
    __syncwarp();
#define MOE_CASE(n)                                                                  \
  case n:                                                                            \
    if constexpr (n <= S::kMaxCols && padded_columns<S::kMaxCols>(n) == n)           \
      run_segment<S, kStorePairs, n>(p, plan, steps, ring, shared, staging);         \
    break;
    switch (cols) {
      MOE_CASE(8)
      MOE_CASE(16)
      MOE_CASE(32)
      MOE_CASE(48)
      MOE_CASE(64)
      MOE_CASE(80)
      MOE_CASE(96)
      MOE_CASE(112)
      MOE_CASE(128)
    }
#undef MOE_CASE
  }
  if constexpr (!kStorePairs) write_output(p);
}

template <class S, bool kStorePairs>
__global__ void __launch_bounds__(kThreads, 1)
    experts_kernel(const __grid_constant__ Problem p, const __grid_constant__ CUtensorMap w13,
                   const __grid_constant__ CUtensorMap w2) {
  extern __shared__ __align__(1024) uint8_t smem[];
  __shared__ Barriers barriers;
  __shared__ Plan plan;
  __shared__ EpilogueShared<S> shared;
  __shared__ uint32_t row_offsets[S::kMaxCols];

  const int warp = threadIdx.x / 32;
  if (smem_addr(smem) % 1024 != 0) __trap();  // swizzle atoms
  if constexpr (kStorePairs) grid_launch_dependents();
  if (threadIdx.x == 0) {
    init_barriers<S>(barriers);
    prefetch_tensor_map(&w13);
    prefetch_tensor_map(&w2);
  }
  grid_dependency_wait();
  if (warp == 0) build_plan(plan, p.control.counts, p.experts, S::kMaxCols);
  __syncthreads();
  if (kStorePairs && blockIdx.x == 0) {
    for (int e = threadIdx.x; e < p.experts; e += kThreads) p.row_base[e] = plan.row_base[e];
  }

  Ring<S> ring(smem, &barriers);
  // Wide tiles need more registers than an even share. The block owns 168 x 384 of them (what the launch bounds allow), and
  // raising waits until enough are free: 224 x 256 + 56 x 128 is exactly that many.
  constexpr bool kMoveRegisters = S::kMaxCols > 64;
  if (warp < kConsumerWarps) {
    if constexpr (kMoveRegisters) raise_registers<224>();
    consume<S, kStorePairs>(p, plan, ring, shared, smem + S::kStagingAt);
  } else {
    if constexpr (kMoveRegisters) lower_registers<56>();
    if (warp == kConsumerWarps) {
      if (threadIdx.x % 32 == 0) produce_weights<S>(p, plan, ring, &w13, &w2);
    } else if (warp < kConsumerWarps + 3) {
      produce_rows<S>(p, plan, ring, row_offsets, threadIdx.x - (kConsumerWarps + 1) * 32);
    } else {
      produce_scales<S>(p, plan, ring);
    }
  }
}

}  // namespace hopper_v2
