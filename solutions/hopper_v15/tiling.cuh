// What is done with the tiles of a call's groups at T = 17 to 1,200: the rules, by the host, and their tables, in which kernels look. How
// tokens become groups is in plan.cuh.
//
// The rules depend on the number of multiprocessors and the sizes of the weights alone. A kernel finds the number of groups and of tokens;
// to work the rules out there would take longer: what runs once between routing and the first weights comes from memory, instruction by
// instruction.
#pragma once

#include <cstdint>

namespace hopper_v15 {

// Who multiplies a tile.
enum class Sharing : uint8_t {
  kTurns,   // one of the two warpgroups; they take tiles in turn, so that one's epilogue overlaps the other's products
  kRows,    // both, each half of the rows of weights; of groups that have tokens as M (rows.cuh), 64 tokens at most
  kTokens,  // both, each its part of the tokens of a thin tile, which has half the rows of weights
};

struct Tiling {
  Sharing sharing = Sharing::kTurns;
  uint8_t whole = 0;    // groups, the first ones, whose GEMM1 tiles are not cut; fewer if an expert has groups before and after
  uint8_t pieces1 = 1;  // per tile of GEMM1 that is cut, unless K is too short
  uint8_t pieces2 = 1;  // per tile of GEMM2, unless K is too short
};

constexpr int kListed = 32;     // numbers of groups; the last stands for any number from there on
constexpr int kFills = 3;       // by tokens per group on average: less than 8, 8 or more, 12 or more
constexpr int kMostPieces = 7;  // of a tile of GEMM1 at T > 16

struct Tilings {
  Tiling narrow[kFills][kListed];  // groups of up to 64 tokens
  Tiling wide[kListed];            // of up to 128; T = 129 to 1,200
};

constexpr uint8_t at_most(int limit, int pieces) { return static_cast<uint8_t>(pieces > limit ? limit : pieces); }

// `round`: groups of which each thread block has one GEMM1 tile at most. With up to half as many groups again the tiles of those beyond
// the round are cut into as many pieces as there are thread blocks for. Without, a few thread blocks would have a second tile while the
// others, done with all of GEMM2 that need not wait for it, idle.
__host__ __device__ constexpr int groups_to_spread(int round) { return round + round / 2; }
constexpr void spread(Tiling& t, int round, int groups) {
  if (groups <= round || groups > groups_to_spread(round)) return;
  t.whole = static_cast<uint8_t>(round);
  t.pieces1 = at_most(kMostPieces, round / (groups - round));
}

// Groups of up to 64 tokens. As a rule the warpgroups multiply tiles in turn. With few groups there is not much to overlap, since a thread
// block has a tile or two, and both multiply the same, in half the time. Few pieces then are better than one for each thread block, since
// sums through the L2 delay the weights. At T = 17 to 128 (`inside`) up to six groups, where eight are a round, have thin tiles, of which
// there are twice as many: those of three or four groups are not cut at all. With more than two groups of few tokens each it is the rule
// after all, in many pieces, whose sums are small. The numbers are those that took the least time on an H200 of those tried, or little
// more, at I = 2,048 (results/2026-11-29-h200-hopper-v14/thin.log; for more groups and larger T
// results/2026-11-29-h200-hopper-v13/few.log).
constexpr Tiling narrow_tiling(bool inside, int round, int groups, int fill) {
  Tiling t;
  if (inside && (groups <= 2 || (groups <= 3 * round / 4 && fill >= 1))) {
    t.sharing = Sharing::kTokens;
    const int thin_round = round / 2 > 1 ? round / 2 : 1;  // as `round`, of thin tiles
    const int rest = groups % thin_round;
    t.whole = static_cast<uint8_t>(groups - rest);
    if (rest > 0) t.pieces1 = groups == 2 ? 4 : at_most(kMostPieces, thin_round / rest);
    if (groups == 1) t.pieces2 = 2;
    return t;
  }
  if (inside ? groups <= groups_to_spread(round) && fill >= (groups <= round ? 2 : 1) : groups <= round + round / 4 && fill >= 1) {
    t.sharing = Sharing::kRows;
    if (!inside && groups <= 3) t.pieces1 = static_cast<uint8_t>(groups <= 1 ? kMostPieces : 5 - groups);
  } else {
    if (groups <= round) t.pieces1 = static_cast<uint8_t>(!inside && groups == 2 ? 4 : kMostPieces);
    if (inside) t.pieces2 = 2;
  }
  spread(t, round, groups);
  return t;
}

constexpr Tilings make_tilings(bool inside, int round) {
  Tilings all;
  for (int groups = 0; groups < kListed; ++groups) {
    const int n = groups < kListed - 1 ? groups : 1 << 20;
    for (int fill = 0; fill < kFills; ++fill) all.narrow[fill][groups] = narrow_tiling(inside, round, n, fill);
    Tiling& t = all.wide[groups];
    t.sharing = Sharing::kRows;
    spread(t, round, n);
  }
  return all;
}

}  // namespace hopper_v15
