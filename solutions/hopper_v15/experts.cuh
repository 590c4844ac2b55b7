// Both grouped products in one persistent kernel: routing (small T), gather, GEMM1, SwiGLU, quantisation, GEMM2, weighting
// and combination. One thread block per multiprocessor; see plan.cuh, and route_share in routing.cuh, for
// why none has to wait for one that does not run.
#pragma once

#include "epilogue.cuh"
#include "rows.cuh"
#include "routing.cuh"

namespace hopper_v15 {

constexpr int kProducerBarrier = 3;  // 1 and 2 are the teams'
constexpr int kListsBarrier = 4;
constexpr int kPlanBarrier = 5;
constexpr int kMasksBarrier = 8;  // 6 and 7: rows.cuh
constexpr int kInitBarrier = 9;
constexpr int kWeightsBarrier = 10;
constexpr int kProducerThreads = kThreads - kConsumerThreads;

template <class S, bool kInside, int N>
__device__ __forceinline__ void run_segment(const Problem& p, const Plan& plan, const Lists& lists, int steps, Ring<S>& ring,
                                            EpilogueShared<S>& shared, uint8_t* staging) {
  float acc[S::kBlocks][N / 2];
  if constexpr (S::kThin) {
    const Segment& mine = shared.segment[team_thread<S>() / 32];
    if (mine.cols > 0) {
      accumulate<S, N>(ring, steps, acc, mine.phase ? S::kMaxCols : 0);
    } else {  // no token: what follows counts on it none the less
      pass_stages<S>(ring, steps);
#pragma unroll
      for (int b = 0; b < S::kBlocks; ++b) {
#pragma unroll
        for (int i = 0; i < N / 2; ++i) acc[b][i] = 0.0f;
      }
    }
  } else {
    accumulate<S, N>(ring, steps, acc);
  }
  if constexpr (S::kTeams == 2) pass_turn(ring);
  const Segment& s = shared.segment[team_thread<S>() / 32];
  if (S::kCollects && s.phase == 0 && plan.pieces[0] > 1) {
    store_piece<S, N>(p, plan, s, acc);
  } else if (s.phase == 0) {
    if (S::kCollects || complete_tile<S, N>(p, plan, s, shared, acc)) finish_gemm1<S, N>(p, s, shared, staging, acc);
  } else if constexpr (kInside) {
    add_gemm2<S, N>(p, plan, s, lists, shared, acc);
  } else {
    put_gemm2<S, N>(p, s, lists, shared, staging, acc);
  }
}

// Teams take the thread block's items in turn. Before a team waits for stages of its item, the other one must be done with
// those of the item before: a barrier's parity tells only neighbouring rounds of the ring apart.
template <class S, bool kInside>
__device__ __forceinline__ void consume(const Problem& p, const Plan& plan, Queue<S>& queue, const Lists& lists, Ring<S> ring,
                                        EpilogueShared<S> (&team_shared)[S::kAllTeams], uint8_t* staging) {
  const int team = threadIdx.x / S::kTeamThreads;
  EpilogueShared<S>& shared = team_shared[team];
  staging += team * S::kStagingBytes;
  const int warp = threadIdx.x / 32 % S::kTeamWarps;
  int turn = 0;
  int my_items = 0;
  bool zeros_there = kInside;
  QueueEnd in;
  for (Queued<S> item; (item = in.pop(queue)) < plan.items;) {
    Segment s = segment_at<S>(p, plan, item);
    int cols = padded<S>(s.cols);  // that are multiplied
    const int steps = s.k1 - s.k0;
    const bool mine = S::kTeams == 1 || turn == team;
    turn = turn + 1 == S::kTeams ? 0 : turn + 1;
    if (!mine) {
      ring.skip(steps);
      continue;
    }
    if (s.phase && !zeros_there) {  // as a rule they were written long ago
      warp_spin_until(p.zero.tokens_done, p.tokens);
      zeros_there = true;
      named_barrier_arrive<kThreads>(kProducerBarrier);
    }
    if constexpr (S::kThin) {  // this team's tokens
      static_assert(S::kTeamCols == thin_columns(S::kMaxCols));
      cols = thin_columns(s.cols);
      const int first = team * cols;
      s.slot += first;
      s.row += first;
      s.cols = min(s.cols - first, cols);
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.segment[warp] = s;
    __syncwarp();
    if constexpr (S::kCollects) {
      if (s.phase == 0) expect_pieces<S>(p, plan, s);
    }
    if constexpr (S::kTeams == 2) {
      const int before = my_items + team - 1;  // the very first item waits for nobody
      if (before >= 0) mbar_wait(smem_addr(&ring.bars->turn[team]), before & 1);
      ++my_items;
    }
    if constexpr (S::kRouted) {
      // Where each warpgroup has a tile, cut ones are summed by columns; where they share tiles of up to 64 tokens, all go by columns.
      if (s.cols > S::kRowsBeyond && (S::kMany || (S::kTeams == 1 ? plan.max_cols > kNarrowGroup : s.pieces == 1))) {
        run_rows<S>(p, plan, lists, steps, ring, shared, staging);
        continue;
      }
    }
    constexpr int kMostCols = S::kMany ? S::kRowsBeyond : S::kThin ? S::kTeamCols : kNarrowGroup;
#define MOE_CASE(n)                                                                               \
  case n:                                                                                         \
    if constexpr (n <= kMostCols && (S::kThin ? thin_columns(2 * n) == n : padded<S>(n) == n)) \
      run_segment<S, kInside, n>(p, plan, lists, steps, ring, shared, staging);                   \
    break;
    switch (cols) {
      MOE_CASE(8)
      MOE_CASE(16)
      MOE_CASE(32)
      MOE_CASE(48)
      MOE_CASE(64)
    }
    if constexpr (S::kCollects) {
      const Segment& done = shared.segment[warp];
      if (done.phase == 0 && plan.pieces[0] > 1) collect_gemm1<S>(p, plan, done, shared);
    }
#undef MOE_CASE
  }
  if (!zeros_there) named_barrier_arrive<kThreads>(kProducerBarrier);
}

// The last thread block that is done with the shared counters leaves them at zero. By the producers, so that this overlaps the last
// epilogue: once routing is done a consumer looks at a counter only where zeros are written, and there each warp arrives at the first
// barrier, without waiting, when it has looked; at T = 17 to 128 when it has read combine weights. Teams that collect pieces wait for the
// pieces alone, and clear those themselves. Masks are read by the warp that loads weights, which is here.
template <class S, bool kInside>
__device__ __forceinline__ void leave(const Problem& p, const Plan& plan, int& last) {
  named_barrier<S::kOneGroup ? kProducerThreads : kThreads>(kProducerBarrier);
  const int id = threadIdx.x - kConsumerThreads;
  if (id == 0) last = add_acq_rel(p.zero.exits, 1) == static_cast<int>(gridDim.x) - 1;
  named_barrier<kProducerThreads>(kProducerBarrier);
  if (!last) return;
  for (int i = id; i < plan.group_base[kMaxLocalExperts]; i += kProducerThreads) p.zero.ready[i] = 0;
  if (!kInside && id < p.experts) p.zero.counts[id] = 0;
  if constexpr (kInside && !S::kOneGroup) {
    for (int i = id; i < p.tokens; i += kProducerThreads) p.zero.masks[i] = 0;
    for (int i = id; i < p.tokens * kTopK; i += kProducerThreads) p.zero.weights[i] = 0.0f;
  }
  if (id == 0) *p.zero.ticket = 0;
  if (id == 1) *p.zero.exits = 0;
  if (!kInside && id == 2) *p.zero.token_ticket = 0;
  if (!kInside && id == 3) *p.zero.tokens_done = 0;
}

// Asks for the sums that this call will add to. They have left the L2 since the last call, and once the weights stream, each
// access to device memory waits in a queue of several microseconds.
// By the first kEach threads of each thread block, but for the warp that loads weights, whose share is left.
template <class S, int kEach>
__device__ __forceinline__ void warm_sums(const Problem& p, const Plan& plan) {
  constexpr int kLine = 32;  // floats
  const int id = blockIdx.x * kEach + threadIdx.x;
  const int threads = gridDim.x * kEach;
  const int groups = plan.group_base[kMaxLocalExperts];
  const auto warm_counters = [&](const int* first, int count) {
    for (int i = id; i < ceil_div(count, kLine); i += threads) prefetch_l2(first + i * kLine);
  };
  if (!S::kCollects && plan.pieces[0] > 1) {
    // As many columns as a group has on average: the first of each place, but where tokens are M (rows.cuh). In place of a tile there are
    // two thin ones, and each warpgroup has a place of a quarter of the size for each.
    const bool thin = plan.sharing == Sharing::kTokens;
    const int average = min(ceil_div(plan.row_base[kMaxLocalExperts], max(groups, 1)), kNarrowGroup);
    const int cols = thin ? min(average, thin_columns(average)) : average;
    const int slot = kTileRows * kNarrowGroup / (thin ? 4 : 1);
    const int slot_lines = kTileRows / (thin ? 2 : 1) * round_up(cols, 8) / kLine;
    const int places = (groups - plan.cut_from) * tile_blocks(p, 0) * (thin ? 4 : partial_places(plan.max_cols));
    for (int i = id; i < places * slot_lines; i += threads) {
      prefetch_l2(p.zero.partial + static_cast<size_t>(i / slot_lines) * slot + i % slot_lines * kLine);
    }
    warm_counters(p.zero.arrivals1, places);
  }
  if constexpr (S::kRouted) return;
  warm_counters(p.zero.arrivals2, ceil_div(p.hidden, kBoxRows));
  warm_counters(p.zero.ready, groups);
  const int lines = groups > 0 ? p.tokens * (p.hidden / kLine) : 0;
  for (int i = id; i < lines; i += threads) prefetch_l2(p.zero.out_acc + static_cast<size_t>(i) * kLine);
}

// All that the producers do: one warp loads weights, two gather token rows, one fetches scales.
template <class S, bool kInside>
__device__ __forceinline__ void produce(const Problem& p, const Plan& plan, Queue<S>& queue, const Lists& lists, Ring<S> ring,
                                        const CUtensorMap* w13, const CUtensorMap* w2, int item, const uint8_t* zeros,
                                        uint32_t* row_offsets) {
  const int warp = threadIdx.x / 32;
  if (warp == kConsumerWarps) {
    if constexpr (kInside) {
      produce_weights<S>(p, plan, queue, ring, w13, w2, item);
    } else if constexpr (S::kTeams == 1) {
      produce_joint_weights<S>(p, plan, queue, ring, w13, w2, item, ZeroRows<S::kKeepsRows>{smem_addr(zeros)});
    } else {
      produce_routed_weights<S>(p, plan, queue, ring, w13, w2, item, ZeroRows<S::kKeepsRows>{smem_addr(zeros)});
    }
  } else if (warp < kConsumerWarps + 3) {
    const int id = threadIdx.x - (kConsumerWarps + 1) * 32;
    if constexpr (S::kMany) {
      produce_many_rows<S>(p, plan, queue, lists, ring, id);
    } else if constexpr (S::kRouted) {
      produce_routed_rows<S>(p, plan, queue, lists, ring, id);
    } else {
      produce_rows<S>(p, plan, queue, lists, ring, row_offsets, id);
    }
  } else if constexpr (S::kRouted && !S::kMany) {
    produce_routed_scales<S>(p, plan, queue, lists, ring);
  } else {
    produce_scales<S>(p, plan, queue, lists, ring);
  }
}

// Epilogues' shared memory, by whichever of the shapes is in use.
template <class S, class W, class H>
union TeamsShared {
  EpilogueShared<S> apart[S::kAllTeams];
  EpilogueShared<W> joint[W::kAllTeams];
  EpilogueShared<H> thin[H::kAllTeams];
};

// T = 17 to 1,200: the kernel looks up what to do with its groups.
struct NoTilings {};
template <class S>
using TilingsOf = std::conditional_t<S::kOneGroup || S::kMany, NoTilings, Tilings>;

// kTokens: most tokens that are routed inside, 0: routing came before.
// W: the shape where warpgroups share the rows of a tile, if S is one where they do not. H: the shape of thin tiles; S where there are
// none. All thread blocks make the same plan, so they all have the same shape.
template <class S, class W, class H, int kTokens>
__global__ void __launch_bounds__(S::kBlockThreads, 1)
    experts_kernel(const __grid_constant__ Problem p, const __grid_constant__ Maps<!std::is_same_v<S, H>> maps,
                   const __grid_constant__ TilingsOf<S> tilings) {
  constexpr bool kInside = kTokens > 0;
  constexpr bool kTwoShapes = !std::is_same_v<S, W>;
  constexpr bool kThin = !std::is_same_v<S, H>;
  static_assert(S::kRouted != kInside);
  static_assert(std::is_same_v<Queue<S>, Queue<W>> && S::kStageK == W::kStageK && S::kBlockThreads == W::kBlockThreads);
  static_assert(std::is_same_v<Queue<S>, Queue<H>> && S::kStageK == H::kStageK && S::kBlockThreads == H::kBlockThreads);
  extern __shared__ __align__(1024) uint8_t smem[];
  __shared__ Barriers barriers[1 + kTwoShapes + kThin];
  __shared__ Queue<S> queue;
  __shared__ Plan plan;
  __shared__ TeamsShared<S, W, H> shared;
  __shared__ uint32_t row_offsets[kInside ? S::kMaxCols : 1];
  __shared__ int last_to_leave;

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (smem_addr(smem) % 1024 != 0) __trap();  // swizzle atoms
  int item = 0;
  if (warp == kConsumerWarps && lane == 0) item = draw(p.zero.ticket);
  // A warp without a token to route, at T <= 15 and beyond 16.
  constexpr int kInitWarp = S::kOneGroup ? kConsumerWarps : kWarps - 1;
  if (warp == kInitWarp && lane == 0) {
    init_barriers<S>(barriers[0]);
    if constexpr (kTwoShapes) init_barriers<W>(barriers[1]);
    if constexpr (kThin) init_barriers<H>(barriers[1 + kTwoShapes]);
    init_queue(queue);
    fence_mbar_init();
    prefetch_tensor_map(&maps.w13);
    prefetch_tensor_map(&maps.w2);
    if constexpr (kThin) prefetch_tensor_map(&maps.thin_w13);
    if constexpr (kThin) prefetch_tensor_map(&maps.thin_w2);
  }
  __shared__ __align__(16) uint8_t zeros[kInside ? 16 : kZeroBytes];
  if constexpr (!kInside) {
    if (threadIdx.x < kZeroBytes / 16) reinterpret_cast<uint4*>(zeros)[threadIdx.x] = make_uint4(0, 0, 0, 0);
    fence_async_shared();  // bulk stores read it
  }
  Lists lists{p.pair_token, p.pair_weight, false};
  if constexpr (kInside) {
    __shared__ Routed<kTokens> routed;
    if constexpr (S::kOneGroup) {
      // The warp that loads weights has the last token. It waits for what experts the others have chosen, makes the plan itself and goes
      // on; the combine weights are there when the others have met at the plan's barrier. At T = 16 it has weights to work out itself.
      // They come before the plan, since the wait for the others hides some of that; the others need them before it goes on.
      static_assert(kTokens <= S::kBlockWarps);
      const int token = (warp + S::kBlockWarps - 1 - kConsumerWarps) % S::kBlockWarps;
      Choice choice;
      if (token < p.tokens) {
        choose_experts(p, token, choice);
        if (lane == 0) routed.mask[token] = choice.mask;
      }
      if (warp != kConsumerWarps) named_barrier_arrive<S::kBlockThreads>(kMasksBarrier);
      if (token < p.tokens) weigh_experts(p, choice, [&](int place, float weight) { routed.weight[token * kTopK + place] = weight; });
      if (warp == kConsumerWarps) {
        named_barrier<S::kBlockThreads>(kMasksBarrier);
        int n = 0;
#pragma unroll
        for (int t = 0; t < kTokens; ++t) n += t < p.tokens ? routed.mask[t] >> lane & 1 : 0;
        build_plan<S>(plan, p, n, few_groups(n));
        __syncwarp();
        named_barrier_arrive<S::kBlockThreads>(kPlanBarrier);
      } else {
        named_barrier<S::kBlockThreads>(kPlanBarrier);
      }
    } else {
      // The warp that loads weights routes the thread block's share of the tokens. It waits for nothing but the others' masks, and for
      // whoever initialises the pipeline's barriers.
      if (warp == kConsumerWarps) {
        const int n = route_share<kTokens>(p, routed.mask);
        build_plan<S>(plan, p, n, inside_groups(tilings, n));
        named_barrier<64>(kInitBarrier);
        named_barrier_arrive<S::kBlockThreads>(kPlanBarrier);
      } else {
        if (warp == kInitWarp) named_barrier_arrive<64>(kInitBarrier);
        named_barrier<S::kBlockThreads>(kPlanBarrier);
      }
    }
    if (warp != kConsumerWarps) {  // that one starts to load weights, for which the plan is enough
      list_tokens<kTokens, S::kBlockWarps - 1>(p, routed, plan.row_base, warp < kConsumerWarps ? warp : warp - 1);
      if constexpr (S::kOneGroup) warm_sums<S, S::kBlockThreads>(p, plan);
      named_barrier<S::kBlockThreads - 32>(kListsBarrier);
      if constexpr (!S::kOneGroup) {
        if (warp < kConsumerWarps) {  // the others need no combine weights
          fetch_weights<kTokens, kConsumerThreads>(p, routed, plan.row_base[kMaxLocalExperts]);
          named_barrier_arrive<kThreads>(kProducerBarrier);
          warm_sums<S, kConsumerThreads>(p, plan);
          named_barrier<kConsumerThreads>(kWeightsBarrier);
        }
      }
    }
    lists = Lists{routed.list_token, routed.list_weight, true};
  } else {
    grid_dependency_wait();
    if (warp == 0) {
      const int n = lane < p.experts ? __ldcg(p.zero.counts + lane) : 0;
      if constexpr (S::kMany) {
        build_plan<S>(plan, p, n, many_groups());
      } else {
        build_plan<S>(plan, p, n, routed_groups(p, tilings, n));
      }
    }
    __syncthreads();
    if (!S::kMany && warp != kConsumerWarps) warm_sums<S, S::kBlockThreads>(p, plan);
  }
  if (kInside && plan.items == 0) {
    if (warp < kConsumerWarps) write_zeros(p);
  }

  const bool joint = kTwoShapes && plan.sharing == Sharing::kRows;
  const bool thin = kThin && plan.sharing == Sharing::kTokens;
  // Products need more registers than an even share, and raising waits until enough are free. A block of 384 threads owns 168 x 384
  // (what the launch bounds allow), exactly 224 x 256 + 56 x 128. One of 512 owns 128 x 512, more than
  // 184 x 256 + 72 x 128 + 24 x 128; there the products take 138 and the producers 53.
  constexpr bool kHelpers = S::kBlockWarps > kWarps;
  constexpr int kMore = kHelpers ? 184 : 224;
  constexpr int kLess = kHelpers ? 72 : 56;
  if (warp < kConsumerWarps) {
    raise_registers<kMore>();
    // One after another: with else between them the compiler puts the code for many tokens first, and at T = 17 to 128 a call takes 0.5 to
    // 1 us longer (results/2026-11-29-h200-hopper-v14/thin.log).
    if (!joint && !thin) {
      consume<S, kInside>(p, plan, queue, lists, Ring<S>(smem, &barriers[0]), shared.apart, smem + S::kStagingAt);
    }
    if constexpr (kTwoShapes) {
      if (joint) consume<W, kInside>(p, plan, queue, lists, Ring<W>(smem, &barriers[1]), shared.joint, smem + W::kStagingAt);
    }
    if constexpr (kThin) {
      if (thin) consume<H, kInside>(p, plan, queue, lists, Ring<H>(smem, &barriers[1 + kTwoShapes]), shared.thin, smem + H::kStagingAt);
    }
  } else if (kHelpers && warp >= kWarps) {
    lower_registers<24>();
  } else {
    lower_registers<kLess>();
    // Where routing happens inside, the producers of W do what those of S do, and only as many columns are loaded as there are tokens for.
    constexpr bool kSameProducers = kInside;
    static_assert(!kSameProducers ||
                  (S::kBoxRows == W::kBoxRows && S::kStages == W::kStages && S::kMaxCols == W::kMaxCols && S::kScalesAt == W::kScalesAt &&
                   S::kScaleFloats == W::kScaleFloats && S::kInFlight == W::kInFlight && S::kRowArrivals == W::kRowArrivals &&
                   S::kReadyPerTile == W::kReadyPerTile));
    if (!thin && (kSameProducers || !joint)) {
      produce<S, kInside>(p, plan, queue, lists, Ring<S>(smem, &barriers[kTwoShapes && joint]), &maps.w13, &maps.w2, item, zeros,
                          row_offsets);
    } else if (joint) {
      if constexpr (kTwoShapes && !kSameProducers) {
        produce<W, kInside>(p, plan, queue, lists, Ring<W>(smem, &barriers[1]), &maps.w13, &maps.w2, item, zeros, row_offsets);
      }
    } else if constexpr (kThin) {
      produce<H, kInside>(p, plan, queue, lists, Ring<H>(smem, &barriers[1 + kTwoShapes]), &maps.thin_w13, &maps.thin_w2, item, zeros,
                          row_offsets);
    }
    __syncwarp();
    leave<S, kInside>(p, plan, last_to_leave);
  }
}

}  // namespace hopper_v15
