// From tokens per expert to work items, and the order in which thread blocks take them.
//
// A group is up to Plan::max_cols tokens of one expert. A GEMM1 tile is a group x 128 columns of the intermediate (128 up and 128
// gate rows of W13); a GEMM2 tile is a group x 256 rows of W2. Thin tiles (Sharing::kTokens) are half of these. A work item is a piece of a
// tile along K.
//
// Items are numbered GEMM1 by expert, then GEMM2 by expert, and thread blocks draw the numbers one after another from a
// counter. So all multiprocessors work on neighbouring rows at any time, a slow one just draws fewer, and there is no barrier between
// the products: a GEMM2 item waits for the GEMM1 items of its group, which with many experts are long done. What an
// item waits for has a lower number, hence was drawn by a running thread block that waits for lower numbers still: no
// number of thread blocks that get to run can make the kernel hang. So does the last piece of a GEMM1 tile at T <= 16, which
// collects the others: its team has stored its own piece and handed on its turn before. At large T a GEMM2 item waits for zeros,
// too, which are no items: see ZeroRows.
#pragma once

#include "params.cuh"
#include "ptx.cuh"
#include "tiling.cuh"

namespace hopper_v15 {

struct Plan {
  int count[kMaxLocalExperts];
  int row_base[kMaxLocalExperts + 1];    // rows of the experts before
  int group_base[kMaxLocalExperts + 1];  // groups of the experts before
  int active;                            // experts with at least one token
  int cut_from;                          // first group whose GEMM1 tiles are cut
  int pieces[2];                         // per tile of GEMM1 that is cut and of GEMM2
  int max_cols;                          // see Grouping
  Sharing sharing;
  bool even;
  int items1;                            // GEMM1 items of all groups; GEMM2 items follow
  int items;
};

// Of one group; kRows: of weights, in a tile.
template <int kRows = kTileRows>
__device__ __forceinline__ int tile_blocks(const Problem& p, int phase) {
  return phase ? ceil_div(p.hidden, kRows) : p.inter / (kRows / kBoxes);
}

// T <= 16: few groups make few tiles, which are cut until each multiprocessor gets a handful of items. More pieces than that cost more
// than a multiprocessor that idles at the end: the others then have the memory for themselves.
__host__ __device__ constexpr int gemm1_pieces(int groups) {
  return groups <= 2 ? 14 : groups <= 8 ? 7 : groups <= 10 ? 2 : 1;
}
// A token is in at most kTopK groups.
constexpr int most_cut() {
  int most = 0;
  for (int groups = 1; groups <= kMaxLocalExperts; ++groups) {
    const int pieces = gemm1_pieces(groups) > 1 ? gemm1_pieces(groups) : 0;
    const int cut = (groups < kTopK ? groups : kTopK) * pieces;
    most = cut > most ? cut : most;
  }
  return most;
}
static_assert(most_cut() == kMostCut, "what the workspace has room for");

constexpr int kNarrowGroup = 64, kWideGroup = 128;  // tokens at most

// Places in Zeroed::partial for a tile that is cut: one of up to 64 tokens has one, a larger one for each warpgroup.
__host__ __device__ constexpr int partial_places(int max_cols) { return max_cols > kNarrowGroup ? 2 : 1; }

// How many tokens a group has at most, whether those of an expert are dealt into groups alike (otherwise all but the last are full), and
// what is done with their tiles.
struct Grouping {
  int max_cols;
  bool even;
  Tiling tiling;
};

// All of these by one whole warp, whose lane e brings the tokens of expert e. T <= 16:
__device__ __forceinline__ Grouping few_groups(int n) {
  const int groups = __popc(__ballot_sync(~0u, n > 0));
  Tiling t;
  t.pieces1 = gemm1_pieces(groups);
  t.pieces2 = groups <= 2 ? 8 : 4;  // smaller ones let the last multiprocessors end closer together
  return {16, true, t};
}

// T > 1,200.
__device__ __forceinline__ Grouping many_groups() {
  Tiling t;
  t.sharing = Sharing::kRows;
  return {kWideGroup, false, t};
}

__device__ __forceinline__ Grouping narrow_groups(const Tilings& tilings, int groups, int tokens) {
  const int fill = (tokens >= 8 * groups) + (tokens >= 12 * groups);
  return {kNarrowGroup, true, tilings.narrow[fill][min(groups, kListed - 1)]};
}

// T = 17 to 128.
__device__ __forceinline__ Grouping inside_groups(const Tilings& tilings, int n) {
  return narrow_groups(tilings, __reduce_add_sync(~0u, ceil_div(n, kNarrowGroup)), __reduce_add_sync(~0u, n));
}

// T = 129 to 1,200: groups of up to 128 tokens where that is better than some more of up to 64. A second group of an expert reads its
// weights again, if only from the L2, and takes a thread block half to three quarters of the time of a first one. But as long as each
// thread block has one tile at most, more and smaller tiles are done sooner, unless some thread blocks have none and there are three tenths
// fewer of the larger ones, still enough for half of the thread blocks. Where tiles could be spread, larger groups are better if they have
// many tokens on average. Beyond, tiles of 33 to 64 tokens take up to 5% longer where warpgroups share them, so a tenth of the groups has
// to be saved, and two. Measured case by case, these rules are at times wrong, mostly by less than 5%
// (results/2026-11-29-h200-hopper-v15/wide.log).
__device__ __forceinline__ Grouping routed_groups(const Problem& p, const Tilings& tilings, int n) {
  const int tokens = __reduce_add_sync(~0u, n);
  const int wide = __reduce_add_sync(~0u, ceil_div(n, kWideGroup));
  const int narrow = __reduce_add_sync(~0u, ceil_div(n, kNarrowGroup));
  const int saved = narrow - wide;
  bool enough = saved >= 2 && 10 * saved >= narrow;
  if (narrow <= p.round) {
    enough = narrow < p.round && 2 * wide >= p.round && 10 * saved >= 3 * narrow;
  } else if (narrow <= groups_to_spread(p.round)) {
    enough = saved >= 1 && tokens > kTokensForWide * wide;
  }
  if (!enough) return narrow_groups(tilings, narrow, tokens);
  return {kWideGroup, true, tilings.wide[min(wide, kListed - 1)]};
}

// Called by one whole warp; lane e brings the tokens of expert e. `plan` is in shared memory. S: the kernel's Shape. No piece is shorter
// than a pipeline stage.
template <class S>
__device__ __forceinline__ void build_plan(Plan& plan, const Problem& p, int n, const Grouping& grouping) {
  const Tiling& tiling = grouping.tiling;
  const int lane = threadIdx.x % 32;
  const int g = ceil_div(n, grouping.max_cols);
  int rows = n, groups = g;
  if constexpr (S::kOneGroup) {  // so an expert has at most 31 tokens
    rows += sum_before<5>(n);
    groups += sum_before<1>(g);
  } else {
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int r = __shfl_up_sync(~0u, rows, d);
      const int s = __shfl_up_sync(~0u, groups, d);
      if (lane >= d) {
        rows += r;
        groups += s;
      }
    }
  }
  plan.count[lane] = n;
  plan.row_base[lane] = rows - n;
  plan.group_base[lane] = groups - g;
  const int active = __popc(__ballot_sync(~0u, n > 0));
  // All groups of an expert are cut, or none.
  int cut_from = 0;
  if constexpr (!S::kOneGroup) cut_from = __reduce_max_sync(~0u, g > 0 && groups - g <= tiling.whole ? groups - g : 0);
  if (lane == 31) {
    plan.row_base[32] = rows;
    plan.group_base[32] = groups;
    plan.active = active;
    plan.max_cols = grouping.max_cols;
    plan.sharing = tiling.sharing;
    plan.even = grouping.even;
    plan.cut_from = cut_from;
    const int cut = groups - cut_from;
    int pieces1 = tiling.pieces1;
    if constexpr (!S::kOneGroup) {
      if (cut * partial_places(grouping.max_cols) > kPartialGroups) pieces1 = 1;
    }
    plan.pieces[0] = min(pieces1, p.hidden / S::kStageK);
    plan.pieces[1] = min(tiling.pieces2, p.inter / S::kStageK);
    const bool thin = !S::kOneGroup && tiling.sharing == Sharing::kTokens;
    plan.items1 = (groups + cut * (plan.pieces[0] - 1)) * (thin ? tile_blocks<kThinTileRows>(p, 0) : tile_blocks(p, 0));
    plan.items = plan.items1 + groups * (thin ? tile_blocks<kThinTileRows>(p, 1) : tile_blocks(p, 1)) * plan.pieces[1];
  }
}

// One work item.
struct Segment {
  int phase;   // 0: GEMM1, 1: GEMM2
  int expert;
  int group;   // index over all groups
  int block;   // GEMM1: block of 128 columns of the intermediate; GEMM2: of 256 rows of W2; of thin tiles 64 and 128
  int slot;    // first token in the expert's list
  int cols;    // tokens: those of the group; of a thin tile, where consumers are at work, those of one warpgroup, none if not positive
  int row;     // first row of these tokens in `act`
  int pieces;  // of the tile
  int piece;
  int k0, k1;  // pipeline stages along K
};

// Item number -> segment. Groups of one expert are neighbours, so that they read the same weights at about the same time. At T > 1,200 no
// tile is cut.
template <class S>
__device__ __forceinline__ Segment segment_of(const Problem& p, const Plan& plan, int item) {
  Segment s;
  s.phase = item >= plan.items1;
  const int index = s.phase ? item - plan.items1 : item;
  const int blocks = tile_blocks<S::kTileRows>(p, s.phase);
  const int steps = (s.phase ? p.inter : p.hidden) / S::kStageK;
  const int cut_from = s.phase ? 0 : plan.cut_from;
  const int more = S::kMany ? 0 : plan.pieces[s.phase] - 1;
  // First item of a group that is its expert's first.
  const auto begin = [&](int group) { return (group + max(group - cut_from, 0) * more) * blocks; };
  // The expert is the last one whose first item is not beyond `index`: lanes look at all of them at once.
  const unsigned before = __ballot_sync(~0u, begin(plan.group_base[threadIdx.x % 32 + 1]) <= index);
  s.expert = __popc(before);
  const int first = plan.group_base[s.expert];
  const int pieces = first < cut_from ? 1 : more + 1;
  const int groups = S::kOneGroup ? 1 : plan.group_base[s.expert + 1] - first;
  const int local = index - begin(first);
  const int g = local % groups;
  const int rest = local / groups;
  s.block = rest / pieces;
  const int piece = rest - s.block * pieces;
  s.pieces = pieces;
  s.piece = piece;
  s.k0 = piece * steps / pieces;
  s.k1 = (piece + 1) * steps / pieces;
  const int count = plan.count[s.expert];
  const int size = S::kOneGroup ? count : plan.even ? round_up(ceil_div(count, groups), 8) : plan.max_cols;
  s.group = first + g;
  s.slot = g * size;
  s.cols = min(size, count - s.slot);
  s.row = plan.row_base[s.expert] + s.slot;
  return s;
}

// Items on their way from the thread that draws them to the warps of its thread block: numbers, or segments where one warp works them
// out for all.
template <class T>
struct ItemQueue {
  static constexpr int kDepth = 4;
  static constexpr int kReaders = kWarps - 1;  // all that stay, but the one that draws
  T item[kDepth];
  uint64_t full[kDepth];
  uint64_t empty[kDepth];
};

template <class T>
__device__ __forceinline__ void init_queue(ItemQueue<T>& q) {
  for (int i = 0; i < ItemQueue<T>::kDepth; ++i) {
    mbar_init(smem_addr(&q.full[i]), 1);
    mbar_init(smem_addr(&q.empty[i]), ItemQueue<T>::kReaders);
  }
}

// Aligned, for wide reads.
struct alignas(16) QueuedSegment {
  Segment segment;  // of no meaning past the last item
  int item;
  __device__ __forceinline__ operator int() const { return item; }
};

class QueueEnd {
  static constexpr int kDepth = ItemQueue<int>::kDepth;

 public:
  // One thread.
  template <class T>
  __device__ __forceinline__ void push(ItemQueue<T>& q, const T& item) {
    mbar_wait(smem_addr(&q.empty[at_]), parity_ ^ 1);
    q.item[at_] = item;
    mbar_arrive(smem_addr(&q.full[at_]));
    advance();
  }
  // A whole warp.
  template <class T>
  __device__ __forceinline__ T pop(ItemQueue<T>& q) {
    mbar_wait(smem_addr(&q.full[at_]), parity_);
    const T item = read(q.item[at_]);
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbar_arrive(smem_addr(&q.empty[at_]));
    advance();
    return item;
  }

 private:
  static __device__ __forceinline__ int read(const int& item) { return static_cast<const volatile int&>(item); }
  static __device__ __forceinline__ QueuedSegment read(const QueuedSegment& item) { return item; }
  __device__ __forceinline__ void advance() {
    if (++at_ == kDepth) {
      at_ = 0;
      parity_ ^= 1;
    }
  }
  int at_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace hopper_v15
