// Routing: which experts each token uses, and the token list of every local expert.
#pragma once

#include "params.cuh"
#include "ptx.cuh"

namespace hopper_v15 {

// Unsigned key with the order of the float.
__device__ __forceinline__ uint32_t order_key(float f) {
  const uint32_t u = __float_as_uint(f);
  return u ^ ((u >> 31) ? 0xFFFFFFFFu : 0x80000000u);
}

// 1 / (1 + exp(-x)) of eight values. A division that looks for extreme divisors itself would be a branch each, one after the
// other; its usual path is what is written here, so that the bits are the same.
__device__ __forceinline__ void sigmoids(const float (&x)[8], float (&y)[8]) {
  float divisor[8];
  bool usual = true;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    divisor[i] = 1.0f + expf(-x[i]);
    usual = usual && divisor[i] < 0x1p126f;
  }
  if (usual) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float r;
      asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(divisor[i]));
      y[i] = fmaf(r, -fmaf(divisor[i], r, -1.0f), r);
    }
  } else {
#pragma unroll 1
    for (int i = 0; i < 8; ++i) {
      // Registers cannot be indexed.
      float d = divisor[0];
#pragma unroll
      for (int j = 1; j < 8; ++j) d = i == j ? divisor[j] : d;
      d = 1.0f / d;
#pragma unroll
      for (int j = 0; j < 8; ++j) y[j] = i == j ? d : y[j];
    }
  }
}

// Sorts a lane's keys, largest first and lower index first among equals. `order` holds the indices, four bits each, first lowest.
__device__ __forceinline__ void sort_lane(uint32_t (&key)[8], uint32_t& order) {
  uint32_t index[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) index[i] = i;
  // Batcher's network for eight.
  constexpr int kNetwork[19][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                   {0, 4}, {1, 5}, {2, 6}, {3, 7}, {2, 4}, {3, 5}, {1, 2}, {3, 4}, {5, 6}};
#pragma unroll
  for (int s = 0; s < 19; ++s) {
    const int a = kNetwork[s][0], b = kNetwork[s][1];
    const bool swap = key[b] > key[a] || (key[b] == key[a] && index[b] < index[a]);
    const uint32_t k = key[a], i = index[a];
    key[a] = swap ? key[b] : k;
    key[b] = swap ? k : key[b];
    index[a] = swap ? index[b] : i;
    index[b] = swap ? i : index[b];
  }
  order = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) order |= index[i] << 4 * i;
}

// One warp scores the experts of N tokens side by side: each is a chain of dependent shuffles, and the chains of several hide each
// other's latency. Lane l holds experts 8 l .. 8 l + 7, so a group of 32 experts is 4 neighbouring lanes. `raw[n]` is this lane's
// logits of token n. The sigmoid is written with expf and a true division, as the reference computes it, because near-ties decide
// which expert is read. On return `key` is what this lane's experts compete by, largest first; 0: not a candidate. `order` says which
// they are, four bits each, first lowest.
template <int N>
__device__ __forceinline__ void score_experts(const float4 (&raw)[N][2], const float (&bias)[8], float (&score)[N][8],
                                              uint32_t (&key)[N][8], uint32_t (&order)[N], int lane) {
  float first[N], second[N];  // two best of this lane, then of this group
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float logits[8] = {raw[n][0].x, raw[n][0].y, raw[n][0].z, raw[n][0].w,
                             raw[n][1].x, raw[n][1].y, raw[n][1].z, raw[n][1].w};
    first[n] = second[n] = -INFINITY;
    sigmoids(logits, score[n]);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float choice = score[n][i] + bias[i];
      key[n][i] = order_key(choice);
      second[n] = fmaxf(second[n], fminf(first[n], choice));
      first[n] = fmaxf(first[n], choice);
    }
  }
#pragma unroll
  for (int d = 1; d < 4; d *= 2) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float other_first = __shfl_xor_sync(~0u, first[n], d);
      const float other_second = __shfl_xor_sync(~0u, second[n], d);
      second[n] = fmaxf(fminf(first[n], other_first), fmaxf(second[n], other_second));
      first[n] = fmaxf(first[n], other_first);
    }
  }
  const int group = lane / 4;
  int better[N] = {};
#pragma unroll
  for (int g = 0; g < kNumGroups; ++g) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float group_score = first[n] + second[n];
      const float other = __shfl_sync(~0u, group_score, 4 * g);
      better[n] += other > group_score || (other == group_score && g < group);
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const bool kept = better[n] < kTopGroups;
#pragma unroll
    for (int i = 0; i < 8; ++i) key[n][i] = kept ? max(key[n][i], 1u) : 0;
    sort_lane(key[n], order[n]);
  }
}

// Both ways to choose: the best of what the lanes have left is the first of one of them; the lowest lane among equals has the lowest
// index. At least 128 keys are not zero.

// On return lane k < 8 holds the k-th chosen expert of each token and its combine weight. Ties go to the lower index.
template <int N>
__device__ __forceinline__ void route_tokens(const float4 (&raw)[N][2], const float (&bias)[8], float scaling, int (&expert)[N],
                                             float (&weight)[N]) {
  const int lane = threadIdx.x % 32;
  float score[N][8];
  uint32_t key[N][8], order[N];
  score_experts(raw, bias, score, key, order, lane);
  const uint32_t lanes_before = (1u << lane) - 1;
#pragma unroll
  for (int n = 0; n < N; ++n) expert[n] = 0;
#pragma unroll 1
  for (int k = 0; k < kTopK; ++k) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const uint32_t best = __reduce_max_sync(~0u, key[n][0]);
      const unsigned equal = __ballot_sync(~0u, key[n][0] == best);
      const int owner = __ffs(equal) - 1;
      const int chosen = 8 * owner + (__shfl_sync(~0u, order[n], owner) & 7);
      if (lane == k) expert[n] = chosen;
      if (key[n][0] == best && (equal & lanes_before) == 0) {
#pragma unroll
        for (int i = 0; i < 7; ++i) key[n][i] = key[n][i + 1];
        key[n][7] = 0;
        order[n] >>= 4;
      }
    }
  }
  float sum[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    float s = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float other = __shfl_sync(~0u, score[n][i], expert[n] >> 3);
      s = (expert[n] & 7) == i ? other : s;
    }
    weight[n] = lane < kTopK ? s : 0.0f;
    sum[n] = 0.0f;
#pragma unroll
    for (int k = 0; k < kTopK; ++k) sum[n] += __shfl_sync(~0u, s, k);
  }
#pragma unroll
  for (int n = 0; n < N; ++n) weight[n] = weight[n] / (sum[n] + 1e-20f) * scaling;
}

// T <= 128: the same choice for one token. Bit i of the result: expert 8 * lane + i has been chosen. No lane learns of the others'.
__device__ __forceinline__ uint32_t choose_own(uint32_t (&key)[8], uint32_t order, int lane) {
  const uint32_t lanes_before = (1u << lane) - 1;
  uint32_t chosen = 0;
#pragma unroll
  for (int k = 0; k < kTopK; ++k) {
    const uint32_t best = __reduce_max_sync(~0u, key[0]);
    const unsigned equal = __ballot_sync(~0u, key[0] == best);
    if (key[0] == best && (equal & lanes_before) == 0) {
      chosen |= 1u << (order & 7);
#pragma unroll
      for (int i = 0; i < kTopK - 1 - k; ++i) key[i] = key[i + 1];
      order >>= 4;
    }
  }
  return chosen;
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

// Routing of all tokens, and the token list of every local expert, in the shared memory of one thread block.
template <int kTokens>
struct Routed {
  static constexpr bool kApart = kTokens > kRoutedByAll;  // weights stay where their thread blocks left them
  uint32_t mask[kTokens];                      // bit e: the token uses local expert e
  float weight[kApart ? 1 : kTokens * kTopK];  // its combine weights in the order of the bits
  int list_token[kTokens * kTopK];  // experts one after another, tokens ascending: the same order in every thread block
  float list_weight[kTokens * kTopK];
};

// What a lane knows of a token that its warp routes at T <= kRoutedInside.
struct Choice {
  float score[8];   // of this lane's experts
  uint32_t chosen;  // bit i: expert 8 * lane + i has been chosen
  uint32_t mine;    // the same as bits of local experts
  uint32_t mask;    // those of all lanes
};

// Chooses a token's experts, which is all that loading weights waits for.
__device__ __forceinline__ void choose_experts(const Problem& p, int token, Choice& choice) {
  const int lane = threadIdx.x % 32;
  float4 raw[1][2];
  float bias[8];
  load_logits(p, token, raw[0]);
  load_bias(p.bias, bias);
  float score[1][8];
  uint32_t key[1][8], order[1];
  score_experts(raw, bias, score, key, order, lane);
  choice.chosen = choose_own(key[0], order[0], lane);
#pragma unroll
  for (int i = 0; i < 8; ++i) choice.score[i] = score[0][i];
  const int shift = 8 * lane - p.expert_offset;
  const uint32_t bits = shift >= 32 || shift <= -8 ? 0 : shift >= 0 ? choice.chosen << shift : choice.chosen >> -shift;
  choice.mine = bits & (~0u >> (32 - p.experts));
  choice.mask = __reduce_or_sync(~0u, choice.mine);
}

// Their combine weights: `put` is given each by the lane that has it, with its place in the order of the mask's bits.
template <class Put>
__device__ __forceinline__ void weigh_experts(const Problem& p, const Choice& choice, const Put& put) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += choice.chosen >> i & 1 ? choice.score[i] : 0.0f;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
  for (uint32_t left = choice.mine; left != 0; left &= left - 1) {
    const int local = __ffs(left) - 1;
    const int i = (local + p.expert_offset) % 8;
    float score = choice.score[0];
#pragma unroll
    for (int j = 1; j < 8; ++j) score = i == j ? choice.score[j] : score;
    put(__popc(choice.mask & ((1u << local) - 1)), score / (sum + 1e-20f) * p.scaling);
  }
  __syncwarp();
}

// Swaps rows and columns of 32 x 32 bits, a row in each lane.
__device__ __forceinline__ uint32_t transpose_bits(uint32_t row) {
  const int lane = threadIdx.x % 32;
  uint32_t low = 0x0000FFFF;  // columns without the bit `d`
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const uint32_t other = __shfl_xor_sync(~0u, row, d);
    row = lane & d ? (row & ~low) | (other >> d & low) : (row & low) | (other & low) << d;
    low ^= low << d / 2;
  }
  return row;
}

// T = 17 to 128: thread blocks share the tokens and tell each other what they found out, by values that carry their own arrival. One warp
// of each, which waits for the masks of all tokens, leaves them in `masks`, in shared memory, and returns the tokens of local expert
// `lane`. If some take long, their thread block may be one that does not run as long as this one does, so this one routes them as well:
// it finds out the same.
template <int kTokens>
__device__ __forceinline__ int route_share(const Problem& p, uint32_t* masks) {
  static_assert(kTokens % 32 == 0);
  constexpr int kEach = kTokens / 32;
  // Looks, of some 0.7 us each. Then all who wait route the same tokens, one after another: slow, but it ends.
  constexpr int kPatience = 64;
  const int lane = threadIdx.x % 32;
  uint32_t mask[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) mask[i] = 32 * i + lane < p.tokens ? 0 : kNoExpert;
  int t = blockIdx.x, looks = 0;
  while (true) {
    if (t < p.tokens) {
      Choice choice;
      choose_experts(p, t, choice);
      if (lane == 0) store_relaxed(p.zero.masks + t, choice.mask ? choice.mask : kNoExpert);
      weigh_experts(p, choice,
                    [&](int place, float weight) { store_relaxed(p.zero.weights + t * kTopK + place, never_zero(weight)); });
      t += gridDim.x;
      continue;
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (mask[i] == 0) mask[i] = load_relaxed(p.zero.masks + 32 * i + lane);
    }
    int missing = kTokens;
#pragma unroll
    for (int i = 0; i < kEach; ++i) missing = mask[i] == 0 ? min(missing, 32 * i + lane) : missing;
    missing = __reduce_min_sync(~0u, missing);
    if (missing == kTokens) break;
    if (++looks > kPatience) t = missing;
  }
  int n = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (mask[i] == kNoExpert) mask[i] = 0;
    masks[32 * i + lane] = mask[i];
    n += __popc(transpose_bits(mask[i]));
  }
  return n;
}

// The lists, each from its place in `row_base`, experts dealt out to kWorkers warps. Where weights stay apart, a pair gets their number in
// place of its own.
template <int kTokens, int kWorkers>
__device__ __forceinline__ void list_tokens(const Problem& p, Routed<kTokens>& r, const int* row_base, int worker) {
  const int lane = threadIdx.x % 32;
  for (int e = worker; e < kMaxLocalExperts; e += kWorkers) {
    int at = row_base[e];
    if (at == row_base[e + 1]) continue;
    for (int t = lane; t < round_up(p.tokens, 32); t += 32) {
      const uint32_t mask = t < p.tokens ? r.mask[t] : 0u;
      const bool mine = mask >> e & 1;
      const unsigned all = __ballot_sync(~0u, mine);
      if (mine) {
        const int place = at + __popc(all & ((1u << lane) - 1));
        const int from = t * kTopK + __popc(mask & ((1u << e) - 1));
        r.list_token[place] = t;
        r.list_weight[place] = Routed<kTokens>::kApart ? __int_as_float(from) : r.weight[from];
      }
      at += __popc(all);
    }
  }
}

// Combine weights of all pairs from where their thread blocks left them, which is not far behind the masks; by kThreads threads, side by
// side.
template <int kTokens, int kThreads>
__device__ __forceinline__ void fetch_weights(const Problem& p, Routed<kTokens>& r, int pairs) {
  constexpr int kEach = kTokens * kTopK / kThreads;
  static_assert(Routed<kTokens>::kApart && kTokens * kTopK % kThreads == 0);
  float weight[kEach];
  SpinGuard guard;
  while (true) {
    bool all = true;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int i = threadIdx.x + k * kThreads;
      if (i < pairs) weight[k] = load_relaxed(p.zero.weights + __float_as_int(r.list_weight[i]));
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k) all = all & (static_cast<int>(threadIdx.x) + k * kThreads >= pairs || is_here(weight[k]));
    if (all) break;
    guard.tick();
  }
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int i = threadIdx.x + k * kThreads;
    if (i < pairs) r.list_weight[i] = weight[k];
  }
  __syncwarp();
}

}  // namespace hopper_v15
