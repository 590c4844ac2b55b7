// Large T: sums the weighted expert outputs of each token.
#pragma once

#include "params.cuh"
#include "ptx.cuh"

namespace hopper_v3 {

constexpr int kCombineThreads = 256;

// One thread block per token. Tokens without a local expert get zeros.
__global__ void __launch_bounds__(kCombineThreads) combine(const __grid_constant__ Problem p) {
  grid_dependency_wait();
  const int token = blockIdx.x;
  const uint4* rows[kTopK];
  int used = 0;
  const int4* slots = reinterpret_cast<const int4*>(p.token_slots + static_cast<size_t>(token) * kTopK);
  const int4 lo = slots[0], hi = slots[1];
  const int slot[kTopK] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
  for (int k = 0; k < kTopK; ++k) {
    rows[k] = nullptr;
    if (slot[k] >= 0) {
      const int expert = slot[k] / p.tokens;
      const int row = p.row_base[expert] + slot[k] - expert * p.tokens;
      rows[k] = reinterpret_cast<const uint4*>(p.pair_out + static_cast<size_t>(row) * p.hidden);
      ++used;
    }
  }
  uint4* out = reinterpret_cast<uint4*>(p.out + static_cast<size_t>(token) * p.hidden);
  for (int i = threadIdx.x; i < p.hidden / 8; i += kCombineThreads) {
    float sum[8] = {};
    if (used > 0) {
      uint4 v[kTopK];
#pragma unroll
      for (int k = 0; k < kTopK; ++k) v[k] = rows[k] ? __ldcs(rows[k] + i) : make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int k = 0; k < kTopK; ++k) {
        const uint32_t w[4] = {v[k].x, v[k].y, v[k].z, v[k].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[2 * j] += __uint_as_float(w[j] << 16);
          sum[2 * j + 1] += __uint_as_float(w[j] & 0xFFFF0000u);
        }
      }
    }
    __nv_bfloat162 h[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) h[j] = __floats2bfloat162_rn(sum[2 * j], sum[2 * j + 1]);
    __stcs(out + i, *reinterpret_cast<uint4*>(h));
  }
}

}  // namespace hopper_v3
