// Routing: which experts each token uses, and the token list of every local expert.
#pragma once

#include <cooperative_groups.h>

#include "params.cuh"
#include "ptx.cuh"

namespace hopper_v2 {

// Unsigned key with the order of the float.
__device__ __forceinline__ uint32_t order_key(float f) {
  const uint32_t u = __float_as_uint(f);
  return u ^ ((u >> 31) ? 0xFFFFFFFFu : 0x80000000u);
}

// One warp routes one token. Lane l holds experts 8 l .. 8 l + 7, so a group of 32 experts is 4 neighbouring lanes.
// `raw` is this lane's logits. On return lane k < 8 holds the k-th chosen expert and its combine weight. Ties go to the
// lower index. The sigmoid is written with expf and a true division, as the reference computes it, because near-ties decide
// which expert is read.
__device__ __forceinline__ void route_token(const float4 (&raw)[2], const float (&bias)[8], float scaling, int& expert,
                                            float& weight) {
  const int lane = threadIdx.x % 32;
  const float logits[8] = {raw[0].x, raw[0].y, raw[0].z, raw[0].w, raw[1].x, raw[1].y, raw[1].z, raw[1].w};
  float score[8];
  float choice[8];
  float first = -INFINITY, second = -INFINITY;  // two best of this lane, then of this group
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    score[i] = 1.0f / (1.0f + expf(-logits[i]));
    choice[i] = score[i] + bias[i];
    second = fmaxf(second, fminf(first, choice[i]));
    first = fmaxf(first, choice[i]);
  }
#pragma unroll
  for (int d = 1; d < 4; d *= 2) {
    const float other_first = __shfl_xor_sync(~0u, first, d);
    const float other_second = __shfl_xor_sync(~0u, second, d);
    second = fmaxf(fminf(first, other_first), fmaxf(second, other_second));
    first = fmaxf(first, other_first);
  }
  const float group_score = first + second;
  const int group = lane / 4;
  int better = 0;
#pragma unroll
  for (int g = 0; g < kNumGroups; ++g) {
    const float other = __shfl_sync(~0u, group_score, 4 * g);
    better += other > group_score || (other == group_score && g < group);
  }
  const bool kept = better < kTopGroups;

  uint32_t key[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) key[i] = kept ? max(order_key(choice[i]), 1u) : 0;  // 0: not a candidate

  float sum = 0.0f;
  expert = 0;
  weight = 0.0f;
#pragma unroll
  for (int k = 0; k < kTopK; ++k) {
    uint32_t best = key[0];
#pragma unroll
    for (int i = 1; i < 8; ++i) best = max(best, key[i]);
    best = __reduce_max_sync(~0u, best);
    unsigned index = kNumExperts - 1;  // a lane without the maximum must not win; with NaN logits the index stays valid
#pragma unroll
    for (int i = 7; i >= 0; --i) index = key[i] == best ? 8 * lane + i : index;
    index = __reduce_min_sync(~0u, index);
    float s = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const bool mine = index == static_cast<unsigned>(8 * lane + i);
      s = mine ? score[i] : s;
      key[i] = mine ? 0 : key[i];
    }
    s = __shfl_sync(~0u, s, index / 8);
    sum += s;
    if (lane == k) {
      expert = index;
      weight = s;
    }
  }
  weight = weight / (sum + 1e-20f) * scaling;
}

__device__ __forceinline__ void load_bias(const __nv_bfloat16* bias, float (&b)[8]) {
  const int lane = threadIdx.x % 32;
  const uint4 packed = reinterpret_cast<const uint4*>(bias)[lane];
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = __uint_as_float(words[i] << 16);
    b[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
}

__device__ __forceinline__ void load_logits(const Problem& p, int token, float4 (&raw)[2]) {
  const float4* row = reinterpret_cast<const float4*>(p.logits + static_cast<size_t>(token) * kNumExperts);
  raw[0] = row[2 * (threadIdx.x % 32)];
  raw[1] = row[2 * (threadIdx.x % 32) + 1];
}

constexpr int kRouteWarps = 8;
constexpr int kRouteThreads = kRouteWarps * 32;
constexpr int kRouteCluster = 8;

// Small T. The first cluster routes every token; slots in the experts' lists come from counters in the shared memory of its
// first thread block, so nothing in device memory has to be zero beforehand. The other clusters zero the counters and the
// fp32 output accumulator of the kernel that follows.
__global__ void __launch_bounds__(kRouteThreads) route_cluster(const __grid_constant__ Problem p) {
  namespace cg = cooperative_groups;
  grid_launch_dependents();
  const cg::cluster_group cluster = cg::this_cluster();
  const int width = cluster.num_blocks();

  if (static_cast<int>(blockIdx.x) >= width) {
    const int threads = (gridDim.x - width) * kRouteThreads;
    const int id = (blockIdx.x - width) * kRouteThreads + threadIdx.x;
    // counts are written, not zeroed: by the routing cluster
    for (int i = p.experts + id; i < p.control_ints; i += threads) p.control.counts[i] = 0;
    if (p.out_acc != nullptr) {
      float4* acc = reinterpret_cast<float4*>(p.out_acc);
      const int total = p.tokens * (p.hidden / 4);
      for (int i = id; i < total; i += threads) acc[i] = make_float4(0.f, 0.f, 0.f, 0.f);
    }
    return;
  }

  __shared__ int counts[kMaxLocalExperts];
  const int rank = cluster.block_rank();
  const int lane = threadIdx.x % 32;
  const int stride = width * kRouteWarps;
  int token = threadIdx.x / 32 * width + rank;  // spreads few tokens over the thread blocks
  float4 raw[2] = {};
  if (token < p.tokens) load_logits(p, token, raw);
  float bias[8];
  load_bias(p.bias, bias);

  if (rank == 0) {
    for (int e = threadIdx.x; e < p.experts; e += kRouteThreads) counts[e] = 0;
  }
  cluster.sync();
  int* shared_counts = cluster.map_shared_rank(counts, 0);

  while (token < p.tokens) {
    int expert;
    float weight;
    route_token(raw, bias, p.scaling, expert, weight);
    const int current = token;
    token += stride;
    if (token < p.tokens) load_logits(p, token, raw);
    const int local = expert - p.expert_offset;
    if (lane < kTopK) {
      int where = -1;
      if (local >= 0 && local < p.experts) {
        where = local * p.tokens + atomicAdd(shared_counts + local, 1);
        p.pair_token[where] = current;
        p.pair_weight[where] = weight;
      }
      p.token_slots[current * kTopK + lane] = where;
    }
  }
  cluster.sync();
  if (rank == 0) {
    for (int e = threadIdx.x; e < p.experts; e += kRouteThreads) p.control.counts[e] = counts[e];
  }
}

constexpr int kRouteChunk = 16;  // tokens per thread block: two a warp, so that T = 901 spreads over 57 of them

// Large T; the control block is already zero. Each thread block counts its own pairs per expert first and then reserves
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

  int local[kPerWarp], slot[kPerWarp];
  float weight[kPerWarp];
#pragma unroll
  for (int i = 0; i < kPerWarp; ++i) {
    const int token = blockIdx.x * kRouteChunk + i * kRouteWarps + warp;
    local[i] = -1;
    slot[i] = 0;
    weight[i] = 0.f;
    if (token < p.tokens) {
      float4 raw[2];
      load_logits(p, token, raw);
      int expert;
      route_token(raw, bias, p.scaling, expert, weight[i]);
      const int l = expert - p.expert_offset;
      if (lane < kTopK && l >= 0 && l < p.experts) {
        local[i] = l;
        slot[i] = atomicAdd(counts + l, 1);
      }
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.experts; e += kRouteThreads) {
    bases[e] = counts[e] ? atomicAdd(p.control.counts + e, counts[e]) : 0;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPerWarp; ++i) {
    const int token = blockIdx.x * kRouteChunk + i * kRouteWarps + warp;
    if (token < p.tokens && lane < kTopK) {
      int where = -1;
      if (local[i] >= 0) {
        where = local[i] * p.tokens + bases[local[i]] + slot[i];
        p.pair_token[where] = token;
        p.pair_weight[where] = weight[i];
      }
      p.token_slots[token * kTopK + lane] = where;
    }
  }
}

}  // namespace hopper_v2
