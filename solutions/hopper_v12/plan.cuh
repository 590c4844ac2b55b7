// From tokens per expert to work items, and the order in which thread blocks take them.
//
// A group is up to Plan::max_cols tokens of one expert. A GEMM1 tile is a group x 128 columns of the intermediate (128 up and 128
// gate rows of W13); a GEMM2 tile is a group x 256 rows of W2. A work item is a piece of a tile along K.
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

namespace hopper_v12 {

struct Plan {
  int count[kMaxLocalExperts];
  int row_base[kMaxLocalExperts + 1];    // rows of the experts before
  int group_base[kMaxLocalExperts + 1];  // groups of the experts before
  int active;                            // experts with at least one token
  int pieces[2];                         // per tile of GEMM1 and of GEMM2
  int max_cols;                          // tokens per group at most; T = 129 to 1,200: decides which of two shapes is used
  bool even;                             // groups of an expert are alike; otherwise all but the last are full
  int items1;                            // GEMM1 items of all groups; GEMM2 items follow
  int items;
};

__device__ __forceinline__ int tile_blocks(const Problem& p, int phase) {
  return phase ? ceil_div(p.hidden, kTileRows) : p.inter / kScaleBlock;
}

// Pieces per tile. Few groups make few tiles: they are cut until each multiprocessor gets a handful of items. More pieces
// than that cost more than a multiprocessor that idles at the end: the others then have the memory for themselves.
__host__ __device__ constexpr int gemm1_pieces(int groups) {
  return groups <= 2 ? 14 : groups <= 8 ? 7 : groups <= kMaxSplitGroups ? 2 : 1;
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
// At T <= 16 smaller pieces let the last multiprocessors end closer together.
template <bool kFew>
__device__ __forceinline__ int gemm2_pieces(int groups) {
  return groups <= 2 ? 8 : kFew || groups <= 4 ? 4 : 2;
}

// T = 129 to 1,200: whether groups of up to 128 tokens are better than some more of up to 64; `groups` of those, `saved` fewer. A second
// group of an expert reads its weights again, if only from the L2, and takes a thread block half to three quarters of the time of a first
// one. But tiles of 33 to 64 tokens take up to 5% longer where warpgroups share them, so at least a tenth of the groups has to be saved,
// and two. And none of these tiles is cut: there have to be enough for most thread blocks, and if there are more than one for each, not
// just a few more, for which the others would wait. Measured in results/2026-11-28-h200-hopper-v12/groups.log.
__device__ __forceinline__ bool larger_groups_pay(const Problem& p, int groups, int saved) {
  const int tiles = groups * tile_blocks(p, 0);
  const int blocks = gridDim.x;
  const bool spread = tiles <= blocks ? 10 * tiles >= 7 * blocks : 10 * tiles >= 14 * blocks;
  return spread && saved >= 2 && 10 * saved >= groups;
}

struct Cutting {
  bool gemm1;  // its tiles into pieces; rows.cuh sums none
  bool gemm2;  // the same, where the output is summed in fp32
  bool even;   // the tokens of an expert into groups alike
};
constexpr Cutting kCutAll{true, true, true};
constexpr Cutting kCutGemm1{true, false, true};
constexpr Cutting kCutGroups{false, false, true};
constexpr Cutting kCutNothing{false, false, false};

// Called by one whole warp; lane e brings the tokens of expert e. `plan` is in shared memory. `stage_k` is the K of one
// pipeline stage: no piece is shorter.
// kFew: at most 31 tokens, all of an expert in one group.
template <bool kFew = false>
__device__ __forceinline__ void build_plan(Plan& plan, const Problem& p, int n, int max_cols, int stage_k, Cutting cut) {
  const int lane = threadIdx.x % 32;
  const int g = ceil_div(n, max_cols);
  int rows = n, groups = g;
  if constexpr (kFew) {
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
  if (lane == 31) {
    plan.row_base[32] = rows;
    plan.group_base[32] = groups;
    plan.active = active;
    plan.max_cols = max_cols;
    plan.even = cut.even;
    plan.pieces[0] = cut.gemm1 ? min(gemm1_pieces(groups), p.hidden / stage_k) : 1;
    plan.pieces[1] = cut.gemm2 ? min(gemm2_pieces<kFew>(groups), p.inter / stage_k) : 1;
    plan.items1 = groups * tile_blocks(p, 0) * plan.pieces[0];
    plan.items = plan.items1 + groups * tile_blocks(p, 1) * plan.pieces[1];
  }
}

// One work item.
struct Segment {
  int phase;   // 0: GEMM1, 1: GEMM2
  int expert;
  int group;   // index over all groups
  int block;   // GEMM1: 128-column block of the intermediate; GEMM2: 256-row block of W2
  int slot;    // first token of the group in the expert's list
  int cols;    // tokens in the group
  int row;     // first row of the group in `act`
  int piece;   // of the tile
  int k0, k1;  // pipeline stages along K
};

// Item number -> segment. `stage_k` is the K of a pipeline stage. Groups of one expert are neighbours, so that they read
// the same weights at about the same time. kOneGroup: no expert has several.
template <bool kOneGroup>
__device__ __forceinline__ Segment segment_of(const Problem& p, const Plan& plan, int item, int stage_k) {
  Segment s;
  s.phase = item >= plan.items1;
  const int index = s.phase ? item - plan.items1 : item;
  const int blocks = tile_blocks(p, s.phase);
  const int pieces = plan.pieces[s.phase];
  const int steps = (s.phase ? p.inter : p.hidden) / stage_k;
  const int per_group = blocks * pieces;
  // The expert is the last one whose first item is not beyond `index`: lanes look at all of them at once.
  const unsigned before = __ballot_sync(~0u, plan.group_base[threadIdx.x % 32 + 1] * per_group <= index);
  s.expert = __popc(before);
  const int first = plan.group_base[s.expert];
  const int groups = kOneGroup ? 1 : plan.group_base[s.expert + 1] - first;
  const int local = index - first * per_group;
  const int g = local % groups;
  const int rest = local / groups;
  s.block = rest / pieces;
  const int piece = rest - s.block * pieces;
  s.piece = piece;
  s.k0 = piece * steps / pieces;
  s.k1 = (piece + 1) * steps / pieces;
  const int count = plan.count[s.expert];
  const int size = kOneGroup ? count : plan.even ? round_up(ceil_div(count, groups), 8) : plan.max_cols;
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

}  // namespace hopper_v12
