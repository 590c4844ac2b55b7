// The shared-memory ring that every product goes through, its producers and the accumulation loop of its consumers.
//
// A stage holds kChunks chunks of K (128 each) of a tile: 256 weight rows by TMA, 128 of a thin tile, up to kMaxCols token rows gathered
// by cp.async, a scale per token, or two where 64 columns of the intermediate have one, and two weight scales. Three kinds of producers
// fill it independently, so that weights keep streaming while token rows wait for the intermediate, as far as the ring or
// Shape::kStagesInFlight lets them.
#pragma once

#include <climits>
#include <type_traits>

#include "plan.cuh"
#include "ptx.cuh"
#include "wgmma.cuh"

namespace hopper_v15 {

// kTeams: 2 lets each warpgroup multiply whole tiles, so that one's epilogue overlaps the other's products; 1 lets both share
// a tile, for which wide ones need the registers of both, and which is done sooner where there are few.
// kInFlight: at most this many boxes of weights are on their way to a thread block; 0: as many as its ring has room for. What the
// memory has been asked for is a queue that sums, counters and token rows wait in too. On an H100 64 KB per multiprocessor were
// fastest at T <= 16, 96 KB beyond 1,200. From 129 to 1,200 an H200 took 1% less time with 96 KB than with 64 at T = 901 (f_two3 and f_two
// in results/2026-11-28-h200-hopper-v9/ring.log). Where there is a limit up to 1,200 tokens, the ring is deeper than that, for weights
// that have come and wait for their token rows; but where warpgroups share a tile there, its two stages are the limit.
// kBoxRows: kThinBoxRows makes thin tiles, of half the rows. With kTeams 1 each warpgroup multiplies its part of the tokens of one
// (thin_columns) and finishes them by itself: neither waits for the other, but where the ring makes it.
template <int kMaxCols_, int kChunks_, int kStages_, int kTeams_, int kInFlight_, int kBoxRows_ = hopper_v15::kBoxRows>
struct Shape {
  static constexpr int kMaxCols = kMaxCols_;
  static constexpr int kChunks = kChunks_;
  static constexpr int kStages = kStages_;
  static constexpr int kTeams = kTeams_;
  static constexpr int kInFlight = kInFlight_;
  static constexpr int kBoxRows = kBoxRows_;
  static constexpr int kTileRows = kBoxes * kBoxRows;
  static constexpr bool kThin = kBoxRows == kThinBoxRows;
  static_assert(kThin || kBoxRows == hopper_v15::kBoxRows);
  static constexpr bool kMany = kMaxCols > 64 && kChunks == 1;  // T > 1,200: the only shape with 128 of K in a stage
  // T > kRoutedInside: one warp works out what an item is for all, while the item before streams.
  static constexpr bool kRouted = kMaxCols > 16 && kInFlight > 0;
  // Where there is a limit, weights have barriers of their own. Where warpgroups share a tile `full` tells of all that a stage holds, so
  // that consumers wait once, and the limit counts stages that are not full.
  static constexpr bool kLandedApart = kInFlight > 0 && kTeams == 2;
  // T = 129 to 1,200: rows that this kernel writes and needs again stay in the L2 while weights pass through it. With
  // 7168 columns they take 17 MB of output at most and, as a rule, 4 MB of act, 20 if all experts of all tokens are local. Larger T
  // has more than the L2 holds, smaller T its sums.
  static constexpr bool kKeepsRows = kRouted && !kMany;
  // Groups of more tokens may have the tokens as M.
  static constexpr int kRowsBeyond = !kRouted ? kMaxCols : kMany ? kManyRowsBeyond : kRoutedRowsBeyond;
  static constexpr int kStagesInFlight = kInFlight / kBoxes;
  // Many tokens: the loader of rows makes them visible to wgmma itself, in place of every consumer thread each step, and hands a stage
  // over when it has asked for the next.
  static constexpr int kRowArrivals = kMany ? kRowLoaderThreads / 32 : kRowLoaderThreads;
  // Arrivals in Zeroed::ready for a GEMM1 tile: of a thin one each warpgroup publishes its tokens, and so does rows.cuh where two
  // warpgroups share one.
  static constexpr int kReadyPerTile = kTeams == 1 && (kRouted || kThin) ? 2 : 1;
  static constexpr int kBlockWarps = kMaxCols <= 16 ? kRoutingWarps : kWarps;
  // T <= 16: the pieces of a tile are stored side by side, and the last of them collects them.
  static constexpr bool kCollects = kMaxCols <= 16;
  static constexpr bool kOneGroup = kMaxCols <= 16;  // T <= 16
  static constexpr int kBlockThreads = kBlockWarps * 32;
  static constexpr int kReaders = kConsumerWarps / kTeams;  // warps that read a stage
  // What follows the products is by teams as well; with thin tiles each warpgroup is one then.
  static constexpr int kTileTeams = kThin ? 2 : 1;  // of one tile
  static constexpr int kAllTeams = kTeams * kTileTeams;
  static constexpr int kTeamWarps = kConsumerWarps / kAllTeams;
  static constexpr int kTeamThreads = kConsumerThreads / kAllTeams;
  static constexpr int kTeamCols = kMaxCols / kTileTeams;
  static constexpr int kHalves = kThin ? 1 : kTeams;  // 64-row halves of a box that one warpgroup multiplies
  // Columns that are multiplied at least. At T = 17 to 128 few tiles of which warpgroups share the rows have less, and code is kept short.
  static constexpr int kLeastCols = kTeams == 1 && kMaxCols == 64 && !kThin ? 32 : 8;
  // A tile's columns of the intermediate, as many as a box has rows, have a scale in common; so there are several for 128 of K in GEMM2.
  static constexpr int kActScales = kScaleBlock / kBoxRows;
  static constexpr int kPartialFloats = kTileRows * kNarrowGroup / kTileTeams;  // of a place in Zeroed::partial
  static constexpr int kBlocks = kHalves * kBoxes;
  static constexpr int kStageK = kChunks * kScaleBlock;
  static constexpr int kChunkBytes = kBoxRows * kScaleBlock;  // one box, 128 of K
  static constexpr int kBoxBytes = kChunks * kChunkBytes;
  static constexpr int kWeightBytes = kBoxes * kBoxBytes;
  static constexpr int kColumnBytes = kMaxCols * kScaleBlock;  // of one chunk
  static constexpr int kStageBytes = kWeightBytes + kChunks * kColumnBytes;
  static constexpr int kStagePitch = 144;  // bytes per token in the output staging area: 128 + 16 avoids bank conflicts
  // Offsets in dynamic shared memory, whose base is aligned to 1024 (swizzle atoms).
  static constexpr int kScalesAt = kStages * kStageBytes;  // per chunk: [kActScales][kMaxCols] token scales, [4] weight scales
  static constexpr int kBlockScalesAt = kActScales * kMaxCols;
  static constexpr int kScaleFloats = kBlockScalesAt + 4;
  static constexpr int kStagingAt = kScalesAt + kStages * kChunks * kScaleFloats * 4;
  static constexpr int kStagingBytes = kTeamCols * kStagePitch;  // of one team
  static constexpr int kBytes = kStagingAt + kAllTeams * kStagingBytes;
  static_assert(kColumnBytes % 1024 == 0, "swizzle atoms");
  static_assert(kInFlight <= kBoxes * kStages, "what is on its way has a place in the ring");
  static_assert(kScalesAt % 16 == 0 && kStagingAt % 16 == 0, "vector access");
};

struct Barriers {
  static constexpr int kMaxStages = 8;
  uint64_t full[kMaxStages];
  uint64_t empty[kMaxStages];
  uint64_t landed[kMaxStages][kBoxes];  // a box of weights has come; without kLandedApart, `full` tells that too
  uint64_t turn[2];  // of a team: the other one has read the stages of the item before
};

// Who the tokens of an item are: shared memory where routing happens inside, device memory otherwise.
struct Lists {
  const int* token;
  const float* weight;
  bool by_row;  // indexed by row of `act`; otherwise by expert * T + slot
  __device__ __forceinline__ int at(const Problem& p, const Segment& s) const {
    return by_row ? s.row : s.expert * p.tokens + s.slot;
  }
};

template <class S>
struct Ring {
  uint8_t* base;
  Barriers* bars;
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ Ring(uint8_t* smem, Barriers* barriers) : base(smem), bars(barriers) {}

  __device__ __forceinline__ uint32_t weights() const { return smem_addr(base) + stage * S::kStageBytes; }
  __device__ __forceinline__ uint32_t columns() const { return weights() + S::kWeightBytes; }
  __device__ __forceinline__ const float* scales() const {
    return reinterpret_cast<const float*>(base + S::kScalesAt) + stage * S::kChunks * S::kScaleFloats;
  }
  __device__ __forceinline__ uint32_t full() const { return smem_addr(&bars->full[stage]); }
  __device__ __forceinline__ uint32_t empty() const { return smem_addr(&bars->empty[stage]); }
  __device__ __forceinline__ uint32_t landed(int box) const { return smem_addr(&bars->landed[stage][box]); }
  __device__ __forceinline__ void wait_full() const {
    if constexpr (S::kLandedApart) {
#pragma unroll
      for (int box = 0; box < kBoxes; ++box) mbar_wait(landed(box), parity);
    }
    mbar_wait(full(), parity);
  }
  // A new barrier counts as having completed the phase before its first: producers start without waiting.
  __device__ __forceinline__ void wait_empty() const { mbar_wait(empty(), parity ^ 1); }
  // By one lane of each consumer warp, when the warp has read the stage.
  __device__ __forceinline__ void release() const { mbar_arrive(empty()); }
  __device__ __forceinline__ void advance() {
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  // Past `count` stages that the other team takes.
  __device__ __forceinline__ void skip(int count) {
    const int at = stage + count;
    const int rounds = at / S::kStages;
    stage = at - rounds * S::kStages;
    parity ^= rounds & 1;
  }
};

template <class S>
__device__ __forceinline__ void init_barriers(Barriers& b) {
  static_assert(S::kStages <= Barriers::kMaxStages);
  for (int i = 0; i < S::kStages; ++i) {
    mbar_init(smem_addr(&b.full[i]), (S::kLandedApart ? 0 : 1) + S::kRowArrivals + kScaleLoaderThreads);
    for (uint64_t& l : b.landed[i]) mbar_init(smem_addr(&l), 1);
    mbar_init(smem_addr(&b.empty[i]), S::kReaders);
  }
  for (uint64_t& t : b.turn) mbar_init(smem_addr(&t), S::kTeamWarps);
}

// Large T: zeros for the tokens without a local expert and for those with several, whose rows GEMM2 adds. By the warp that loads
// weights: a few tokens with each GEMM1 item, by bulk stores from a block of zeros, while products or weights keep the multiprocessor
// busy. Thread blocks draw tokens from a counter, and each draws until none is left before it loads weights of
// GEMM2. So a GEMM2 item waits for running thread blocks only, and those, between drawing tokens and telling that they are written,
// for nothing but their own GEMM1 items.
constexpr int kZeroBytes = 4096;
template <bool kKeep>  // in the L2
struct ZeroRows {
  static constexpr int kTokens = 16;  // drawn together, two lanes per token
  uint32_t zeros;    // in shared memory
  int written = 0;   // tokens, not published
  bool left = true;  // may be tokens that nobody has drawn

  // All of these by a whole warp. Draws some tokens.
  __device__ __forceinline__ void write(const Problem& p) {
    if (!left) return;
    const int lane = threadIdx.x % 32;
    int from = 0;
    if (lane == 0) from = atomicAdd(p.zero.token_ticket, kTokens);
    from = __shfl_sync(~0u, from, 0);
    left = from < p.tokens;
    if (!left) return;
    const int token = from + lane / 2;
    if (token < p.tokens && p.local_pairs[token] != 1) {
      const int bytes = 2 * p.hidden;
      uint8_t* out = reinterpret_cast<uint8_t*>(p.out) + static_cast<size_t>(token) * bytes;
#pragma unroll 1
      for (int at = lane % 2 * kZeroBytes; at < bytes; at += 2 * kZeroBytes) {
        if (kKeep && p.local_pairs[token] > 1) {
          bulk_store(out + at, zeros, min(kZeroBytes, bytes - at), policy_evict_last());
        } else {
          bulk_store(out + at, zeros, min(kZeroBytes, bytes - at));
        }
      }
    }
    bulk_commit();
    written += min(kTokens, p.tokens - from);
  }
  // Tells that the zeros so far are written. A lane waits for its own bulk stores, whose completion is a proxy fence: the async proxy
  // wrote, the generic one adds.
  __device__ __forceinline__ void publish(const Problem& p) {
    if (written == 0) return;
    bulk_wait();
    __syncwarp();
    if (threadIdx.x % 32 == 0) red_add_release(p.zero.tokens_done, written);
    written = 0;
  }
  // Writes what is left of all tokens.
  __device__ __forceinline__ void finish(const Problem& p) {
    while (left) write(p);
    publish(p);
  }
};
static_assert(ZeroRows<true>::kTokens * 2 == 32, "two lanes per token");

// Large T: what an item is is worked out once, ahead of time, and not by every warp when it gets there.
template <class S>
using Queued = std::conditional_t<S::kRouted, QueuedSegment, int>;
template <class S>
using Queue = ItemQueue<Queued<S>>;

template <class S>
__device__ __forceinline__ Segment segment_at(const Problem& p, const Plan& plan, int item) {
  return segment_of<S>(p, plan, item);
}
template <class S>
__device__ __forceinline__ Segment segment_at(const Problem&, const Plan&, const QueuedSegment& item) {
  return item.segment;
}

// Loads the weights of consecutive steps; one thread. It keeps to Shape::kInFlight where boxes land apart.
template <class S>
struct WeightLoader {
  int unhinted;  // boxes to load before `policy` holds
  uint64_t policy = policy_evict_first();
  const CUtensorMap* map = nullptr;
  int row0 = 0, row1 = 0;  // first rows of the two boxes
  int asked = 0;           // boxes
  // Of the boxes that may be on their way, the oldest first.
  uint32_t landed[S::kLandedApart ? S::kInFlight : 1];
  uint32_t parity[S::kLandedApart ? S::kInFlight : 1];

  __device__ __forceinline__ explicit WeightLoader(const Plan& plan)
      : unhinted(plan.active <= kEvictFirstExperts ? 0 : kUnhintedBytes / S::kBoxBytes) {}

  // W2 with an odd number of 128-row blocks: the last box reads a neighbour's rows or, past the end of the tensor, zeros; its
  // results are dropped.
  __device__ __forceinline__ void start(const Problem& p, const Segment& s, const CUtensorMap* w13, const CUtensorMap* w2) {
    map = s.phase ? w2 : w13;
    row0 = s.phase ? s.expert * p.hidden + s.block * S::kTileRows : s.expert * 2 * p.inter + s.block * S::kBoxRows;
    row1 = row0 + (s.phase ? S::kBoxRows : p.inter);
  }
  // Steps [k, end).
  __device__ __forceinline__ void load(Ring<S>& ring, int k, int end) {
    for (; k < end; ++k) {
      ring.wait_empty();
      if constexpr (!S::kLandedApart) mbar_arrive_expect(ring.full(), S::kWeightBytes);
#pragma unroll
      for (int box = 0; box < kBoxes; ++box) {
        uint32_t bar = ring.full();
        if constexpr (S::kLandedApart) {
          bar = ring.landed(box);
          wait_for_oldest(bar, ring.parity);
          mbar_arrive_expect(bar, S::kBoxBytes);
        }
        const uint32_t to = ring.weights() + box * S::kBoxBytes;
        const int row = box == 0 ? row0 : row1;
        if (unhinted > 0) {
          --unhinted;
          tma_load(to, map, row, k * S::kChunks, bar);
        } else {
          tma_load(to, map, row, k * S::kChunks, bar, policy);
        }
      }
      ring.advance();
    }
  }

 private:
  __device__ __forceinline__ void wait_for_oldest(uint32_t next, uint32_t next_parity) {
    if (asked++ >= S::kInFlight) mbar_wait(landed[0], parity[0]);
#pragma unroll
    for (int i = 1; i < S::kInFlight; ++i) {
      landed[i - 1] = landed[i];
      parity[i - 1] = parity[i];
    }
    landed[S::kInFlight - 1] = next;
    parity[S::kInFlight - 1] = next_parity;
  }
};

// Draws items and loads their weights; one warp, of which one lane does both. Nothing here depends on results of this kernel: GEMM2's
// weights follow GEMM1's without a pause. `item` is the first item, drawn already.
template <class S>
__device__ __forceinline__ void produce_weights(const Problem& p, const Plan& plan, Queue<S>& queue, Ring<S> ring,
                                                const CUtensorMap* w13, const CUtensorMap* w2, int item) {
  const int lane = threadIdx.x % 32;
  WeightLoader<S> loader(plan);
  QueueEnd end;
  while (true) {
    item = __shfl_sync(~0u, item, 0);
    if (lane == 0) end.push(queue, item);
    if (item >= plan.items) break;
    int next = 0;
    if (lane == 0) next = draw(p.zero.ticket);  // on its way while this item streams
    const Segment s = segment_of<S>(p, plan, item);
    if (lane == 0) {
      loader.start(p, s, w13, w2);
      loader.load(ring, s.k0, s.k1);
    }
    item = next;
  }
}

// The same where warps get segments from the queue. Weights of GEMM2 come once the zeros of `rows` are written.
template <class S>
__device__ __forceinline__ void produce_routed_weights(const Problem& p, const Plan& plan, Queue<S>& queue, Ring<S> ring,
                                                       const CUtensorMap* w13, const CUtensorMap* w2, int item,
                                                       ZeroRows<S::kKeepsRows> rows) {
  const int lane = threadIdx.x % 32;
  WeightLoader<S> loader(plan);
  QueueEnd end;
  int k = 0, last = 0;  // what is left of the item before
  while (true) {
    item = __shfl_sync(~0u, item, 0);
    QueuedSegment next{{}, item};
    const Segment& s = next.segment;
    if (item < plan.items) next.segment = segment_of<S>(p, plan, item);
    if (lane == 0) {
      end.push(queue, next);
      loader.load(ring, k, last);
    }
    __syncwarp();
    if (item >= plan.items1) rows.finish(p);
    if (item >= plan.items) break;
    if (lane == 0) item = draw(p.zero.ticket);  // on its way while this item streams
    // Once the ring is full of this item there is time for zeros, and to work out the next item, which is in the queue, as a rule,
    // before anyone is done with this one.
    k = min(s.k0 + S::kStages, s.k1);
    last = s.k1;
    if (lane == 0) {
      loader.start(p, s, w13, w2);
      loader.load(ring, s.k0, k);
    }
    __syncwarp();
    rows.publish(p);  // those of the item before have long been written
    rows.write(p);
  }
}

// The same where a stage's weights come to one barrier with all else.
template <class S>
__device__ __forceinline__ void produce_joint_weights(const Problem& p, const Plan& plan, Queue<S>& queue, Ring<S> ring,
                                                      const CUtensorMap* w13, const CUtensorMap* w2, int item,
                                                      ZeroRows<S::kKeepsRows> rows) {
  static_assert(S::kTeams == 1 && S::kStagesInFlight > 0 && S::kStagesInFlight <= S::kStages);
  const int lane = threadIdx.x % 32;
  // Steps to load before `policy` holds. T > 1,200: it never does if there are many experts.
  int unhinted = plan.active <= kEvictFirstExperts ? 0 : S::kMany ? INT_MAX : kUnhintedBytes / S::kWeightBytes;
  const uint64_t policy = policy_evict_first();
  Ring<S> behind = ring;  // the oldest stage that is not known to be full
  int asked = 0;
  QueueEnd end;
  const CUtensorMap* map = nullptr;
  int row0 = 0, row1 = 0;  // first rows of the two boxes, see WeightLoader::start
  const auto load = [&](int k) {
    if constexpr (S::kStagesInFlight < S::kStages) {
      if (asked++ >= S::kStagesInFlight) {
        mbar_wait(behind.full(), behind.parity);
        behind.advance();
      }
    }
    ring.wait_empty();
    mbar_arrive_expect(ring.full(), S::kWeightBytes);
    if (unhinted > 0) {
      --unhinted;
      tma_load(ring.weights(), map, row0, k * S::kChunks, ring.full());
      tma_load(ring.weights() + S::kBoxBytes, map, row1, k * S::kChunks, ring.full());
    } else {
      tma_load(ring.weights(), map, row0, k * S::kChunks, ring.full(), policy);
      tma_load(ring.weights() + S::kBoxBytes, map, row1, k * S::kChunks, ring.full(), policy);
    }
    ring.advance();
  };
  int k = 0, last = 0;  // what is left of the item before
  while (true) {
    item = __shfl_sync(~0u, item, 0);
    QueuedSegment next{{}, item};
    const Segment& s = next.segment;
    if (item < plan.items) next.segment = segment_of<S>(p, plan, item);
    if (lane == 0) {
      end.push(queue, next);
      for (; k < last; ++k) load(k);
    }
    __syncwarp();
    if (item >= plan.items1) rows.finish(p);
    if (item >= plan.items) break;
    if (lane == 0) item = draw(p.zero.ticket);  // on its way while this item streams
    map = s.phase ? w2 : w13;
    row0 = s.phase ? s.expert * p.hidden + s.block * S::kTileRows : s.expert * 2 * p.inter + s.block * S::kBoxRows;
    row1 = row0 + (s.phase ? S::kBoxRows : p.inter);
    k = s.k0;
    last = s.k1;
    // Once the ring is full of this item there is time for zeros, and to work out the next item, which is in the queue, as a rule,
    // before anyone is done with this one.
    const int filled = min(k + S::kStages, last);
    if (lane == 0) {
      for (; k < filled; ++k) load(k);
    }
    __syncwarp();
    rows.publish(p);  // those of the item before have long been written
    rows.write(p);
  }
}

// Columns are computed in multiples for which an instruction shape is instantiated.
template <int kMaxCols>
__host__ __device__ constexpr int padded_columns(int cols) {
  if (kMaxCols <= 16) return cols <= 8 ? 8 : 16;
  if (kMaxCols <= 64) return cols <= 8 ? 8 : cols <= 16 ? 16 : cols <= 32 ? 32 : 64;
  return cols <= 16 ? 16 : (cols + 15) / 16 * 16;
}

// Columns that each warpgroup multiplies of a thin tile of so many tokens. Of 17 to 32 the first takes all: there is no code for 16, and
// memory is what takes time.
__host__ __device__ constexpr int thin_columns(int cols) { return cols <= 16 ? 8 : kNarrowGroup / 2; }

// Columns that are loaded and, but of thin tiles, multiplied by a shape.
template <class S>
__host__ __device__ constexpr int padded(int cols) {
  return padded_columns<S::kMaxCols>(cols < S::kLeastCols ? S::kLeastCols : cols);
}

// Zeroed::ready of a group whose intermediate is complete.
template <class S>
__device__ __forceinline__ int ready_count(const Problem& p) {
  return p.inter / S::kBoxRows * S::kReadyPerTile;
}

// Token rows, by 64 threads (`id`): thread t copies bytes 16 (t % 8) .. + 16 of rows t / 8, t / 8 + 8, ... Row r of a chunk
// lies at r * 128 and its 16-byte pieces are permuted by XOR with r % 8, the layout that wgmma reads in 128-byte swizzle
// mode. Padding columns repeat the last token: their results are dropped. `offsets` is shared memory: rows of a warp are
// used by that warp only.
template <class S>
__device__ __forceinline__ void produce_rows(const Problem& p, const Plan& plan, Queue<S>& queue, const Lists& lists,
                                             Ring<S> ring, uint32_t* offsets, int id) {
  static_assert(!S::kRouted);
  const int piece = id % 8;
  const int row = id / 8;
  const uint32_t dst = row * kScaleBlock + ((piece ^ row) * 16);
  QueueEnd in;
  for (Queued<S> item; (item = in.pop(queue)) < plan.items;) {
    const Segment s = segment_at<S>(p, plan, item);
    const int passes = padded<S>(s.cols) / 8;
    const uint8_t* source = (s.phase ? p.act : p.x) + piece * 16;
    const uint32_t pitch = s.phase ? p.inter : p.hidden;
    const int first = lists.at(p, s);
    __syncwarp();
    for (int i = piece; i < passes; i += 8) {
      const int r = min(i * 8 + row, s.cols - 1);
      const uint32_t from = s.phase ? s.row + r : lists.token[first + r] & kTokenBits;
      offsets[i * 8 + row] = from * pitch;
    }
    __syncwarp();
    if (s.phase) warp_spin_until(p.zero.ready + s.group, ready_count<S>(p));
    source += s.k0 * S::kStageK;
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
#pragma unroll
      for (int c = 0; c < S::kChunks; ++c) {
        const uint32_t to = ring.columns() + c * S::kColumnBytes + dst;
#pragma unroll 4
        for (int i = 0; i < passes; ++i) cp_async_16(to + i * 8 * kScaleBlock, source + offsets[i * 8 + row]);
        source += kScaleBlock;
      }
      cp_async_arrive(ring.full());
      ring.advance();
    }
  }
}

// Tells the consumers that this warp's rows of a stage are there: all but the `kNewer` newest groups of copies have landed. The fence
// is by the threads that wrote, ahead of their warp's one arrival, so that consumers need none.
template <class S, int kNewer>
__device__ __forceinline__ void hand_over(Ring<S>& behind) {
  cp_async_wait<kNewer>();
  fence_async_shared();
  __syncwarp();
  if (threadIdx.x % 32 == 0) mbar_arrive(behind.full());
  behind.advance();
}

// The same for T > 1,200; a thread knows where its rows are, so that no copy waits for shared memory.
template <class S>
__device__ __forceinline__ void produce_many_rows(const Problem& p, const Plan& plan, Queue<S>& queue, const Lists& lists,
                                                  Ring<S> ring, int id) {
  static_assert(S::kMany);
  constexpr int kPasses = S::kMaxCols / 8;
  const int piece = id % 8;
  const int row = id / 8;
  const uint32_t dst = row * kScaleBlock + ((piece ^ row) * 16);
  Ring<S> behind = ring;  // the oldest stage that has not been handed over
  QueueEnd in;
  for (Queued<S> item; (item = in.pop(queue)) < plan.items;) {
    const Segment s = segment_at<S>(p, plan, item);
    const int passes = padded<S>(s.cols) / 8;
    const uint8_t* source = (s.phase ? p.act : p.x) + piece * 16;
    const uint32_t pitch = s.phase ? p.inter : p.hidden;
    const int first = lists.at(p, s);
    // The eight lanes of a row find out where two of its passes are, each.
    uint32_t found[kPasses / 8];
#pragma unroll
    for (int i = 0; i < kPasses / 8; ++i) {
      const int r = min((i * 8 + piece) * 8 + row, s.cols - 1);
      const uint32_t from = s.phase ? s.row + r : lists.token[first + r] & kTokenBits;
      found[i] = from * pitch;
    }
    uint32_t offset[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) offset[i] = __shfl_sync(~0u, found[i / 8], i % 8, 8);
    if (s.phase) warp_spin_until(p.zero.ready + s.group, ready_count<S>(p));
    source += s.k0 * S::kStageK;
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
      const uint32_t to = ring.columns() + dst;
#pragma unroll
      for (int i = 0; i < kPasses; ++i) {
        if (i < passes) cp_async_16(to + i * 8 * kScaleBlock, source + offset[i]);
      }
      source += kScaleBlock;
      cp_async_commit();
      ring.advance();
      if (k > s.k0) hand_over<S, 1>(behind);
    }
    hand_over<S, 0>(behind);  // nothing is held back across any other wait than for an empty stage
  }
}

// A look by a whole warp that does not wait: whether the intermediate of a GEMM2 item is there. If so, it is visible.
template <class S>
__device__ __forceinline__ bool looks_ready(const Problem& p, const Segment& s) {
  bool there = false;
  if (threadIdx.x % 32 == 0) there = load_acquire(p.zero.ready + s.group) >= ready_count<S>(p);
  there = __shfl_sync(~0u, there, 0);
  __syncwarp();
  return there;
}

// Token rows, T = 129 to 1,200. Half-way through an item the next one is looked at: what it takes to find its rows, or that they are
// there, waits in the queue behind the weights, and the first rows of an item are due as soon as its first weights.
template <class S>
__device__ __forceinline__ void produce_routed_rows(const Problem& p, const Plan& plan, Queue<S>& queue, const Lists& lists,
                                                    Ring<S> ring, int id) {
  constexpr int kPasses = S::kMaxCols / 8;
  static_assert(S::kRouted && kPasses % 8 == 0, "each of the eight lanes of a row finds out where some of its passes are");
  const int piece = id % 8;
  const int row = id / 8;
  const uint32_t dst = row * kScaleBlock + ((piece ^ row) * 16);
  QueueEnd in;
  Queued<S> item = in.pop(queue);
  int found[kPasses / 8] = {};  // rows of x or act
  bool ready = false;           // known to be
  const auto look = [&] {
    if (item >= plan.items) return;
    const Segment& s = item.segment;
    const int first = lists.at(p, s);
#pragma unroll
    for (int i = 0; i < kPasses / 8; ++i) {
      const int r = min((i * 8 + piece) * 8 + row, s.cols - 1);
      found[i] = s.phase ? s.row + r : lists.token[first + r];
    }
    ready = s.phase && looks_ready<S>(p, s);
  };
  look();
  while (item < plan.items) {
    const Segment s = item.segment;
    const int passes = padded<S>(s.cols) / 8;
    const uint8_t* source = (s.phase ? p.act : p.x) + piece * 16 + s.k0 * S::kStageK;
    uint32_t offset[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses / 8; ++i) {
      const uint32_t from = static_cast<uint32_t>(found[i] & kTokenBits) * (s.phase ? p.inter : p.hidden);
#pragma unroll
      for (int j = 0; j < 8; ++j) offset[8 * i + j] = __shfl_sync(~0u, from, j, 8);
    }
    if (s.phase && !ready) warp_spin_until(p.zero.ready + s.group, ready_count<S>(p));
    const int middle = (s.k0 + s.k1) / 2;
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
#pragma unroll 1
      for (int c = 0; c < S::kChunks; ++c) {
        const uint32_t to = ring.columns() + c * S::kColumnBytes + dst;
#pragma unroll
        for (int i = 0; i < kPasses; ++i) {
          if (i < passes) cp_async_16(to + i * 8 * kScaleBlock, source + offset[i]);
        }
        source += kScaleBlock;
      }
      cp_async_arrive(ring.full());
      ring.advance();
      if (k == middle) {
        item = in.pop(queue);
        look();
      }
    }
  }
}

// Scales, by one warp: one per token, and the two weight blocks' by lanes 0 and 1.
template <class S>
__device__ __forceinline__ void produce_scales(const Problem& p, const Plan& plan, Queue<S>& queue, const Lists& lists,
                                               Ring<S> ring) {
  constexpr int kPasses = (S::kMaxCols + 31) / 32;
  const int lane = threadIdx.x % 32;
  const int steps1 = p.hidden / kScaleBlock;
  const int steps2 = p.inter / kScaleBlock;
  QueueEnd in;
  for (Queued<S> item; (item = in.pop(queue)) < plan.items;) {
    const Segment s = segment_at<S>(p, plan, item);
    const int cols = padded<S>(s.cols);
    const float* source = s.phase ? p.act_scale : p.x_scale;
    const size_t pitch = s.phase ? p.act_rows : p.tokens;
    const int first = lists.at(p, s);
    int offset[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int r = min(i * 32 + lane, s.cols - 1);
      offset[i] = s.phase ? s.row + r : lists.token[first + r] & kTokenBits;
    }
    const float* block_scale;
    if (s.phase) {
      const int block = min((kBoxes * s.block + (lane & 1)) * S::kBoxRows / kScaleBlock, steps1 - 1);
      block_scale = p.w2_scale + (static_cast<size_t>(s.expert) * steps1 + block) * steps2;
    } else {
      const int block = s.block * S::kBoxRows / kScaleBlock + (lane & 1) * steps2;
      block_scale = p.w13_scale + (static_cast<size_t>(s.expert) * 2 * steps2 + block) * steps1;
    }
    if (s.phase) warp_spin_until(p.zero.ready + s.group, ready_count<S>(p));
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
#pragma unroll
      for (int c = 0; c < S::kChunks; ++c) {
        const uint32_t to = smem_addr(ring.scales() + c * S::kScaleFloats);
        const int block = k * S::kChunks + c;
#pragma unroll
        for (int i = 0; i < kPasses; ++i) {
          const int column = i * 32 + lane;
          if (column < cols) {
            if (!S::kThin || s.phase == 0) {
              cp_async_4(to + column * 4, source + block * pitch + offset[i]);
            } else {
#pragma unroll
              for (int h = 0; h < S::kActScales; ++h) {
                cp_async_4(to + (h * S::kMaxCols + column) * 4, source + (block * S::kActScales + h) * pitch + offset[i]);
              }
            }
          }
        }
        if (lane < kBoxes) cp_async_4(to + (S::kBlockScalesAt + lane) * 4, block_scale + block);
      }
      cp_async_arrive(ring.full());
      ring.advance();
    }
  }
}

// The same, with a look at the next item as in produce_routed_rows.
template <class S>
__device__ __forceinline__ void produce_routed_scales(const Problem& p, const Plan& plan, Queue<S>& queue, const Lists& lists,
                                                      Ring<S> ring) {
  static_assert(S::kRouted && !S::kThin);
  constexpr int kPasses = (S::kMaxCols + 31) / 32;
  // Opaque: otherwise it is kept from the kernel's beginning, in local memory.
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  const int steps1 = p.hidden / kScaleBlock;
  const int steps2 = p.inter / kScaleBlock;
  QueueEnd in;
  Queued<S> item = in.pop(queue);
  int found[kPasses] = {};
  bool ready = false;
  const auto look = [&] {
    if (item >= plan.items) return;
    const Segment& s = item.segment;
    const int first = lists.at(p, s);
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int r = min(i * 32 + lane, s.cols - 1);
      found[i] = s.phase ? s.row + r : lists.token[first + r];
    }
    ready = s.phase && looks_ready<S>(p, s);
  };
  look();
  while (item < plan.items) {
    const Segment s = item.segment;
    const int cols = padded<S>(s.cols);
    const float* source = s.phase ? p.act_scale : p.x_scale;
    const size_t pitch = s.phase ? p.act_rows : p.tokens;
    int offset[kPasses];
#pragma unroll
    for (int i = 0; i < kPasses; ++i) offset[i] = found[i] & kTokenBits;
    const float* block_scale;
    if (s.phase) {
      const int block = min((kBoxes * s.block + (lane & 1)) * S::kBoxRows / kScaleBlock, steps1 - 1);
      block_scale = p.w2_scale + (static_cast<size_t>(s.expert) * steps1 + block) * steps2;
    } else {
      const int block = s.block * S::kBoxRows / kScaleBlock + (lane & 1) * steps2;
      block_scale = p.w13_scale + (static_cast<size_t>(s.expert) * 2 * steps2 + block) * steps1;
    }
    if (s.phase && !ready) warp_spin_until(p.zero.ready + s.group, ready_count<S>(p));
    const int middle = (s.k0 + s.k1) / 2;
    for (int k = s.k0; k < s.k1; ++k) {
      ring.wait_empty();
#pragma unroll
      for (int c = 0; c < S::kChunks; ++c) {
        const uint32_t to = smem_addr(ring.scales() + c * S::kScaleFloats);
        const int block = k * S::kChunks + c;
#pragma unroll
        for (int i = 0; i < kPasses; ++i) {
          const int column = i * 32 + lane;
          if (column < cols) cp_async_4(to + column * 4, source + block * pitch + offset[i]);
        }
        if (lane < kBoxes) cp_async_4(to + (S::kBlockScalesAt + lane) * 4, block_scale + block);
      }
      cp_async_arrive(ring.full());
      ring.advance();
      if (k == middle) {
        item = in.pop(queue);
        look();
      }
    }
  }
}

// acc += scale * partial for one box: scale = token scale (per column) x weight block scale.
template <int N>
__device__ __forceinline__ void promote(float (&acc)[N / 2], const float (&partial)[N / 2], const float* token_scale,
                                        float block_scale) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
    const float2 t = *reinterpret_cast<const float2*>(token_scale + 8 * j + column);
    const float s0 = t.x * block_scale;
    const float s1 = t.y * block_scale;
    acc[4 * j + 0] = fmaf(partial[4 * j + 0], s0, acc[4 * j + 0]);
    acc[4 * j + 1] = fmaf(partial[4 * j + 1], s1, acc[4 * j + 1]);
    acc[4 * j + 2] = fmaf(partial[4 * j + 2], s0, acc[4 * j + 2]);
    acc[4 * j + 3] = fmaf(partial[4 * j + 3], s1, acc[4 * j + 3]);
  }
}

// One box and one chunk, or a part of its K: D = weights x tokens.
template <int N, int kDepth = kScaleBlock>
__device__ __forceinline__ void multiply(float (&partial)[N / 2], uint64_t a, uint64_t b) {
  constexpr uint64_t kStep = 32 >> 4;  // K of one instruction, in descriptor units
#pragma unroll
  for (int k = 0; k < kDepth / 32; ++k) Wgmma<N>::mma(partial, a + k * kStep, b + k * kStep, k != 0);
}

// The same; the operands' descriptors by their low words.
template <int N>
__device__ __forceinline__ void multiply_low(float (&partial)[N / 2], uint32_t a, uint32_t b) {
  constexpr uint32_t kStep = 32 >> 4;
#pragma unroll
  for (int k = 0; k < kScaleBlock / 32; ++k) Wgmma<N>::mma(partial, operand_of(a + k * kStep), operand_of(b + k * kStep), k != 0);
}

// Accumulates the segment's stages into acc[half * kBoxes + box]. Sharing a tile, warpgroup g multiplies rows 64 g .. 64 g + 63
// of either box; alone, a warpgroup multiplies both halves. Either way a thread holds the up and the gate value of the same
// element in GEMM1. The tensor core's fp8 accumulation is exact enough for one scale block only; across blocks the sum is
// kept in fp32 registers.
// Of a thin tile warpgroup g multiplies all rows by tokens g N .. g N + N - 1. `scale_pitch` lies between a token's scales for the parts
// of 128 of K: in GEMM1 they are the same.
template <class S, int N>
__device__ __forceinline__ void accumulate(Ring<S>& ring, int steps, float (&acc)[S::kBlocks][N / 2], int scale_pitch = 0) {
  constexpr int kScales = S::kActScales;
  constexpr uint64_t kBox = S::kBoxBytes >> 4;
  constexpr uint64_t kHalf = 64 * kScaleBlock >> 4;
  constexpr uint64_t kChunk = S::kChunkBytes >> 4;
  constexpr uint64_t kColumnChunk = S::kColumnBytes >> 4;
  constexpr int kDepth = kScaleBlock / kScales;
  constexpr uint64_t kDepthStep = kDepth >> 4;
  // Chunks whose partial sums are in registers at the same time; 0: those of one block of a chunk are. Where each warpgroup has a tile
  // and routing happens inside, 1 has not been tried for 32 columns.
  constexpr int kPartials = S::kBlocks * kScales * N;  // of a chunk
  constexpr bool kOneChunk = (S::kRouted || S::kTeams == 1) && kPartials <= 128;
  constexpr int kAtOnce = S::kChunks * kPartials <= 128 ? S::kChunks : kOneChunk ? 1 : 0;
  static_assert(!S::kThin || kAtOnce > 0);
  const int first_half = S::kTeams == 1 && !S::kThin ? threadIdx.x / 128 : 0;
  const int first_column = S::kThin ? threadIdx.x / 128 * N : 0;
#pragma unroll
  for (int b = 0; b < S::kBlocks; ++b) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) acc[b][i] = 0.0f;
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    ring.wait_full();
    if constexpr (!S::kMany) fence_async_shared();  // token rows came by cp.async
    const uint64_t a = operand_descriptor(ring.weights()) + first_half * kHalf;
    const uint64_t b = operand_descriptor(ring.columns()) + first_column * kScaleBlock / 16;
    const float* scales = ring.scales();
    if constexpr (kAtOnce > 0) {
#pragma unroll
      for (int first = 0; first < S::kChunks; first += kAtOnce) {
        float partial[kAtOnce][kScales][S::kBlocks][N / 2];
        wgmma_begin();
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int c = first + i;
#pragma unroll
          for (int h = 0; h < kScales; ++h) {
#pragma unroll
            for (int k = 0; k < S::kBlocks; ++k) {
              multiply<N, kDepth>(partial[i][h][k], a + k % kBoxes * kBox + k / kBoxes * kHalf + c * kChunk + h * kDepthStep,
                                  b + c * kColumnChunk + h * kDepthStep);
            }
          }
        }
        wgmma_commit();
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const float* chunk_scales = scales + (first + i) * S::kScaleFloats;
#pragma unroll
          for (int h = 0; h < kScales; ++h) {
#pragma unroll
            for (int k = 0; k < S::kBlocks; ++k) {
              pin_registers(partial[i][h][k]);
              promote<N>(acc[k], partial[i][h][k], chunk_scales + h * scale_pitch + first_column,
                         chunk_scales[S::kBlockScalesAt + k % kBoxes]);
            }
          }
        }
      }
    } else {
      // One block at a time; the other warpgroup keeps the tensor cores busy meanwhile. At T = 129 to 1,200 only 64 columns of a cut
      // tile come here, and the code is kept short.
#pragma unroll(S::kRouted ? 1 : S::kChunks)
      for (int c = 0; c < S::kChunks; ++c) {
        const float* chunk_scales = scales + c * S::kScaleFloats;
#pragma unroll
        for (int k = 0; k < S::kBlocks; ++k) {
          float partial[N / 2];
          wgmma_begin();
          multiply<N>(partial, a + k % kBoxes * kBox + k / kBoxes * kHalf + c * kChunk, b + c * kColumnChunk);
          wgmma_commit();
          wgmma_wait<0>();
          pin_registers(partial);
          promote<N>(acc[k], partial, chunk_scales, chunk_scales[S::kBlockScalesAt + k % kBoxes]);
        }
      }
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) ring.release();
    ring.advance();
  }
}

}  // namespace hopper_v15
