// Sizes that every file of this solution shares. A tile's "rows" are weight rows (output features) and its "columns" tokens: the
// weights are the M operand of wgmma and the tokens its N operand, so that one token costs 8 columns, not 64 rows. Only in
// rows.cuh, for large groups, it is the other way round. Rows of x and act are those of tokens.
#pragma once

#include <cstdint>

// 1: spins that last seconds trap. For a build by hand, never for a benchmark.
#ifndef MOE_DEBUG
#define MOE_DEBUG 0
#endif

// The namespace bears the folder's name: static variables of inline functions are unique in a process, across all shared
// libraries, so two solutions that are loaded together must not share one.
namespace hopper_v15 {

constexpr int kScaleBlock = 128;  // elements per scale, along K and along weight rows
constexpr int kBoxRows = 128;     // weight rows per TMA box
constexpr int kBoxes = 2;         // boxes per tile: (up, gate) in GEMM1, two neighbouring row blocks in GEMM2
constexpr int kTileRows = kBoxes * kBoxRows;
constexpr int kThinBoxRows = 64;  // of thin tiles (Sharing::kTokens)
constexpr int kThinTileRows = kBoxes * kThinBoxRows;

// Up to this many tokens routing happens in the kernel that multiplies, and the output is summed in fp32.
constexpr int kRoutedInside = 128;
// Up to this many tokens every thread block routes all of them, each in a warp of its own; beyond, each routes its share and tells the
// others.
constexpr int kRoutedByAll = 16;
// Groups of up to 64 tokens whose GEMM1 tiles there is room to sum when they are cut along K.
constexpr int kPartialGroups = 10;

// Columns times pieces of a GEMM1 tile, over all groups, for each token: eight groups in seven pieces (gemm1_pieces).
constexpr int kMostCut = 56;

// Weights are read once where a group has all tokens of its expert, and leave the L2 before anything else then. Up to this many active
// experts they do from the start, and displace few of the dirty lines of whoever ran before.
constexpr int kEvictFirstExperts = 10;
// With more experts a call displaces those lines anyway; if weights displaced only each other, their write-back would last the whole
// call. So up to 1,200 tokens the first weights that a thread block loads have no hint: 1.5 MB, on 132 multiprocessors four times the
// L2's 50 MB.
constexpr int kUnhintedBytes = 3 << 19;

// Beyond 1,200 tokens, groups with more than this have the tokens as M (rows.cuh). With 49 to 64 tokens that is a warpgroup alone at the
// tensor cores, which takes less time than two that share the rows of weights; with 65 to 80 it makes no difference. The same for
// groups of more than 32 tokens at T = 129 to 1,200 where there are larger ones, too, or each warpgroup has a tile for itself. Measured in
// results/2026-11-28-h200-hopper-v12/groups.log.
constexpr int kManyRowsBeyond = 48;
constexpr int kRoutedRowsBeyond = 32;
// Where tiles of groups of up to 64 tokens could be spread, groups of up to 128 have to have more than this on average (routed_groups).
constexpr int kTokensForWide = 37;

constexpr int kTopK = 8;
constexpr int kNumExperts = 256;
constexpr int kNumGroups = 8;
constexpr int kTopGroups = 4;
constexpr int kMaxLocalExperts = 32;  // bits of a token's record

constexpr int kConsumerWarps = 8;  // two warpgroups; what each multiplies: Sharing
constexpr int kConsumerThreads = kConsumerWarps * 32;
constexpr int kRowLoaderThreads = 64;   // two warps gather token rows
constexpr int kScaleLoaderThreads = 32; // one warp fetches scales
constexpr int kThreads = kConsumerThreads + 32 /* TMA warp */ + kRowLoaderThreads + kScaleLoaderThreads;
constexpr int kWarps = kThreads / 32;
// T <= 16: with four more warps, which end when the lists are made, each token has a warp of its own.
constexpr int kRoutingWarps = 16;

constexpr float kFp8Max = 448.0f;

}  // namespace hopper_v15
