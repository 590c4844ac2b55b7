// Large T: sums the weighted expert outputs of each token that has several, and writes the zeros of those that have none where the
// products have not done so.
#pragma once

#include "params.cuh"
#include "ptx.cuh"

namespace hopper_v6 {

constexpr int kCombineThreads = 128;
constexpr int kCombinePieces = 7;  // 16-byte pieces of a row that a thread has in flight; 7 x 128 x 8 = 7168 columns

__device__ __forceinline__ void add_bf16x8(float (&sum)[8], uint4 v) {
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    sum[2 * j] += __uint_as_float(w[j] << 16);
    sum[2 * j + 1] += __uint_as_float(w[j] & 0xFFFF0000u);
  }
}

// One thread block per token.
__global__ void __launch_bounds__(kCombineThreads) combine(const __grid_constant__ Problem p) {
  grid_dependency_wait();
  const int token = blockIdx.x;
  const int4* slots = reinterpret_cast<const int4*>(p.token_slots + static_cast<size_t>(token) * kTopK);
  const int4 lo = slots[0], hi = slots[1];
  const int slot[kTopK] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
  int used = 0;
#pragma unroll
  for (int k = 0; k < kTopK; ++k) used += slot[k] >= 0;
  if (used == 1 || (used == 0 && p.zeros_written)) return;  // the products wrote it
  const int pieces = p.hidden / 8;
  uint4* out = reinterpret_cast<uint4*>(p.out + static_cast<size_t>(token) * p.hidden);
  for (int first = threadIdx.x; first < pieces; first += kCombinePieces * kCombineThreads) {
    float sum[kCombinePieces][8] = {};
#pragma unroll
    for (int k = 0; k < kTopK; ++k) {
      if (slot[k] < 0) continue;
      const int expert = slot[k] / p.tokens;
      const int row = p.row_base[expert] + slot[k] - expert * p.tokens;
      const uint4* from = reinterpret_cast<const uint4*>(p.pair_out + static_cast<size_t>(row) * p.hidden);
      uint4 v[kCombinePieces];  // all loads of a row before the first sum
#pragma unroll
      for (int i = 0; i < kCombinePieces; ++i) {
        const int at = first + i * kCombineThreads;
        v[i] = at < pieces ? __ldcs(from + at) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int i = 0; i < kCombinePieces; ++i) add_bf16x8(sum[i], v[i]);
    }
#pragma unroll
    for (int i = 0; i < kCombinePieces; ++i) {
      const int at = first + i * kCombineThreads;
      __nv_bfloat162 h[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) h[j] = __floats2bfloat162_rn(sum[i][2 * j], sum[i][2 * j + 1]);
      if (at < pieces) __stcs(out + at, *reinterpret_cast<uint4*>(h));
    }
  }
}

}  // namespace hopper_v6
