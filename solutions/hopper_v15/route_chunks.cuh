// Routing of more than kRoutedInside tokens: a kernel of its own, before the products.
#pragma once

#include "routing.cuh"

namespace hopper_v15 {

constexpr int kRouteWarps = 8;
constexpr int kRouteThreads = kRouteWarps * 32;
constexpr int kRouteChunk = 16;  // tokens per thread block: two a warp, so that T = 901 spreads over 57 of them

// Larger T, a kernel of its own. Each thread block counts its own pairs per expert first and then reserves
// their places with one global atomic per expert.
__global__ void __launch_bounds__(kRouteThreads) route_chunks(const __grid_constant__ Problem p) {
  __shared__ int counts[kMaxLocalExperts];
  __shared__ int bases[kMaxLocalExperts];
  grid_launch_dependents();
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  constexpr int kPerWarp = kRouteChunk / kRouteWarps;
  for (int e = threadIdx.x; e < p.experts; e += kRouteThreads) counts[e] = 0;
  float bias[8];
  load_bias(p.bias, bias);
  __syncthreads();

  int local[kPerWarp], slot[kPerWarp], expert[kPerWarp];
  int pairs[kPerWarp];
  float weight[kPerWarp];
  float4 raw[kPerWarp][2];
#pragma unroll
  for (int i = 0; i < kPerWarp; ++i) {
    load_logits(p, min(static_cast<int>(blockIdx.x) * kRouteChunk + i * kRouteWarps + warp, p.tokens - 1), raw[i]);
  }
  route_tokens<kPerWarp>(raw, bias, p.scaling, expert, weight);
#pragma unroll
  for (int i = 0; i < kPerWarp; ++i) {
    const int token = blockIdx.x * kRouteChunk + i * kRouteWarps + warp;
    const int l = expert[i] - p.expert_offset;
    const bool mine = token < p.tokens && lane < kTopK && l >= 0 && l < p.experts;
    local[i] = mine ? l : -1;
    slot[i] = mine ? atomicAdd(counts + l, 1) : 0;
    pairs[i] = __popc(__ballot_sync(~0u, mine));
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.experts; e += kRouteThreads) {
    bases[e] = counts[e] ? atomicAdd(p.zero.counts + e, counts[e]) : 0;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPerWarp; ++i) {
    const int token = blockIdx.x * kRouteChunk + i * kRouteWarps + warp;
    if (local[i] >= 0) {
      const int where = local[i] * p.tokens + bases[local[i]] + slot[i];
      p.pair_token[where] = pairs[i] == 1 ? token | kAlone : token;
      p.pair_weight[where] = weight[i];
    }
    if (token < p.tokens && lane == 0) p.local_pairs[token] = pairs[i];
  }
}

}  // namespace hopper_v15
