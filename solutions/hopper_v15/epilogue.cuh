// What happens to finished accumulators: summing cut tiles, SwiGLU + quantisation (GEMM1), weighting (GEMM2).
//
// A team of warps owns an item or, of a thin tile, its part of the tokens. Throughout, acc[h * kBoxes + box][i] of its thread `tid` is row
// box_row(tid) + 64 h + 8 * (i / 2 % 2) of the box and column (token) 8 * (i / 4) + 2 * (lane % 4) + i % 2.
#pragma once

#include <cuda_fp8.h>

#include "pipeline.cuh"

namespace hopper_v15 {

// One team's named barrier; 0 is __syncthreads. Where results go to other thread blocks, the team meets here and then one
// thread releases (or acquires) at gpu scope: that covers what the barrier ordered before (or after) it, so the others need
// no fence of their own, of which each would drain the multiprocessor's writes.
template <class S>
__device__ __forceinline__ void team_barrier() {
  named_barrier<S::kTeamThreads>(1 + threadIdx.x / S::kTeamThreads);
}

// By a whole warp of two teams: it has read the stages of its item.
template <class S>
__device__ __forceinline__ void pass_turn(const Ring<S>& ring) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) mbar_arrive(smem_addr(&ring.bars->turn[1 - threadIdx.x / S::kTeamThreads]));
}

// Static shared memory of one team.
template <class S>
struct EpilogueShared {
  float amax[S::kTeamWarps][S::kTeamCols];
  float inverse[S::kTeamCols];
  float weight[S::kTeamCols];
  int token[S::kTeamCols];  // as listed
  Segment segment[S::kTeamWarps];  // parked here during the accumulation, which needs the registers
  int last;
  int rows_last[2];  // of each warpgroup, for itself
};

// The thread's place in its team, but opaque: otherwise the compiler computes every epilogue address ahead of the
// accumulation loops and spills them there.
template <class S>
__device__ __forceinline__ int team_thread() {
  int t;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(t));
  return t % S::kTeamThreads;
}

// First row of a team's thread in a box: 16 * warp + lane / 4.
__device__ __forceinline__ int box_row(int tid) { return tid / 32 * 16 + tid % 32 / 4; }

// Where a GEMM1 tile that is cut is summed: the first of its places; of a thin tile the team's own.
template <class S>
__device__ __forceinline__ int partial_place(const Problem& p, const Plan& plan, const Segment& s) {
  const int tile = (s.group - plan.cut_from) * tile_blocks<S::kTileRows>(p, 0) + s.block;
  return S::kThin ? tile * S::kTileTeams + threadIdx.x / S::kTeamThreads : tile * partial_places(plan.max_cols);
}

// Sums the pieces of a cut GEMM1 tile: each adds its accumulators to the tile's place, in register order, so that with weights as M sums of
// the same columns are neighbours; the piece that comes last takes the sum out, leaves zeros behind and goes on. Returns whether this is
// it. By kThreads threads, `tid` among them, that meet at a named barrier; takes(i): whether quadruples i of this thread are of a token.
template <class S, int kThreads, int kRows, int kEach, class Takes>
__device__ __forceinline__ bool sum_pieces(const Problem& p, int place, int pieces, int tid, int barrier, int& last, const Takes& takes,
                                           float (&acc)[kRows][kEach]) {
  constexpr int kPitch = 4 * kThreads;
  float* slot = p.zero.partial + static_cast<size_t>(place) * S::kPartialFloats + 4 * tid;
#pragma unroll
  for (int b = 0; b < kRows; ++b) {
#pragma unroll
    for (int i = 0; i < kEach / 4; ++i) {
      if (takes(i)) {
        red_add_v4(slot + (i * kRows + b) * kPitch, acc[b][4 * i], acc[b][4 * i + 1], acc[b][4 * i + 2], acc[b][4 * i + 3]);
      }
    }
  }
  named_barrier<kThreads>(barrier);
  if (tid == 0) {
    int* arrivals = p.zero.arrivals1 + place;
    last = add_acq_rel(arrivals, 1) == pieces - 1;
    if (last) *arrivals = 0;
  }
  named_barrier<kThreads>(barrier);
  if (!last) return false;
#pragma unroll
  for (int b = 0; b < kRows; ++b) {
#pragma unroll
    for (int i = 0; i < kEach / 4; ++i) {
      if (takes(i)) {
        float4* at = reinterpret_cast<float4*>(slot + (i * kRows + b) * kPitch);
        const float4 v = __ldcg(at);
        __stcg(at, make_float4(0.f, 0.f, 0.f, 0.f));
        acc[b][4 * i] = v.x;
        acc[b][4 * i + 1] = v.y;
        acc[b][4 * i + 2] = v.z;
        acc[b][4 * i + 3] = v.w;
      }
    }
  }
  return true;
}

// The pieces of a GEMM1 tile that has the weights as M, if it is cut. Returns whether the tile is complete.
template <class S, int N>
__device__ __forceinline__ bool complete_tile(const Problem& p, const Plan& plan, const Segment& s, EpilogueShared<S>& shared,
                                              float (&acc)[S::kBlocks][N / 2]) {
  if constexpr (S::kMany) return true;  // no tile is cut
  if (s.pieces == 1) return true;
  const int tid = team_thread<S>();
  const int column = 2 * (tid % 4);
  return sum_pieces<S, S::kTeamThreads>(p, partial_place<S>(p, plan, s), s.pieces, tid, 1 + threadIdx.x / S::kTeamThreads, shared.last,
                                        [&](int i) { return 8 * i + column < s.cols; }, acc);
}

// GEMM1: act = silu(gate) * up for a tile's columns of the intermediate, quantised with one scale per token, then published.
template <class S, int N>
__device__ __forceinline__ void finish_gemm1(const Problem& p, const Segment& s, EpilogueShared<S>& shared, uint8_t* staging,
                                             float (&acc)[S::kBlocks][N / 2]) {
  const int tid = team_thread<S>();
  const int lane = tid % 32;
  // The result takes the place of the up value.
#pragma unroll
  for (int h = 0; h < S::kHalves; ++h) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const float gate = acc[h * kBoxes + 1][i];
      acc[h * kBoxes][i] *= __fdividef(gate, 1.0f + __expf(-gate));
    }
  }
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      float m = 0.0f;
#pragma unroll
      for (int h = 0; h < S::kHalves; ++h) {
        m = fmaxf(m, fmaxf(fabsf(acc[h * kBoxes][4 * j + b]), fabsf(acc[h * kBoxes][4 * j + 2 + b])));
      }
#pragma unroll
      for (int d = 4; d < 32; d *= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, d));
      if (lane < 4) shared.amax[tid / 32][8 * j + 2 * lane + b] = m;
    }
  }
  team_barrier<S>();
  if (tid < N) {
    float m = 0.0f;
#pragma unroll
    for (int w = 0; w < S::kTeamWarps; ++w) m = fmaxf(m, shared.amax[w][tid]);
    // Below this the inverse would overflow, and the values do not matter.
    const bool zero = m < 1e-30f;
    shared.inverse[tid] = zero ? 0.0f : kFp8Max / m;
    if (tid < s.cols) p.act_scale[static_cast<size_t>(s.block) * p.act_rows + s.row + tid] = zero ? 0.0f : m / kFp8Max;
  }
  team_barrier<S>();
  const int row = box_row(tid);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
    const float inverse = shared.inverse[column];
#pragma unroll
    for (int h = 0; h < S::kHalves; ++h) {
      const __nv_fp8_storage_t q = __nv_cvt_float_to_fp8(acc[h * kBoxes][i] * inverse, __NV_SATFINITE, __NV_E4M3);
      staging[column * S::kStagePitch + 64 * h + row + 8 * (i / 2 % 2)] = q;
    }
  }
  team_barrier<S>();
  constexpr int kPieces = S::kBoxRows / 16;  // of 16 bytes per token
  for (int i = tid; i < s.cols * kPieces; i += S::kTeamThreads) {
    const int column = i / kPieces, piece = i % kPieces;
    const uint4 q = *reinterpret_cast<const uint4*>(staging + column * S::kStagePitch + piece * 16);
    uint4* to = reinterpret_cast<uint4*>(p.act + static_cast<size_t>(s.row + column) * p.inter + s.block * S::kBoxRows) + piece;
    if constexpr (S::kKeepsRows) {
      store_16(to, q, policy_evict_last());
    } else {
      __stcg(to, q);
    }
  }
  team_barrier<S>();
  if (tid == 0) red_add_release(p.zero.ready + s.group, S::kReadyPerTile / S::kTileTeams);
}

// Where 256 rows of a piece of a GEMM1 tile are, for one of its tokens.
__device__ __forceinline__ float* piece_slot(const Problem& p, const Plan& plan, const Segment& s, int column, int piece) {
  const size_t tile = static_cast<size_t>(s.row + column) * tile_blocks(p, 0) + s.block;
  return p.zero.pieces + (tile * plan.pieces[0] + piece) * kTileRows;
}

// T <= 16: one piece of a GEMM1 tile. A warp's eight rows are a whole sector of the L2, which needs nothing from memory.
template <class S, int N>
__device__ __forceinline__ void store_piece(const Problem& p, const Plan& plan, const Segment& s, float (&acc)[S::kBlocks][N / 2]) {
  const int tid = team_thread<S>();
  const int column0 = 2 * (tid % 4);
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * j + column0 + c;
      if (column < s.cols) {
        float* to = piece_slot(p, plan, s, column, s.piece) + box_row(tid);
#pragma unroll
        for (int b = 0; b < S::kBlocks; ++b) {
          float* at = to + b % kBoxes * kBoxRows + b / kBoxes * 64;
          store_relaxed(at, never_zero(acc[b][4 * j + c]));
          store_relaxed(at + 8, never_zero(acc[b][4 * j + 2 + c]));
        }
      }
    }
  }
}

// Ahead of the products of a piece that will collect the others: what they have not written yet is fetched into the L2 meanwhile, so
// that no look at it waits for memory.
template <class S>
__device__ __forceinline__ void expect_pieces(const Problem& p, const Plan& plan, const Segment& s) {
  constexpr int kLine = 32;  // floats
  const int pieces = plan.pieces[0];
  if (pieces == 1 || s.piece != pieces - 1) return;
  for (int column = 0; column < s.cols; ++column) {
    const float* slot = piece_slot(p, plan, s, column, 0);
    for (int i = team_thread<S>(); i < (pieces - 1) * (kTileRows / kLine); i += S::kTeamThreads) prefetch_l2(slot + i * kLine);
  }
}

// Collects the pieces of kColumns tokens from `first` on, leaves zeros behind and does what finish_gemm1 does. Thread t has column t
// of the 128 of the intermediate.
template <class S, int kColumns>
__device__ __forceinline__ void finish_columns(const Problem& p, const Plan& plan, const Segment& s, EpilogueShared<S>& shared,
                                               int first) {
  static_assert(S::kTeamThreads == kBoxRows, "a thread per column of the intermediate");
  constexpr int kBatch = 7;  // pieces that are read at the same time
  const int tid = team_thread<S>();
  const int pieces = plan.pieces[0];
  float* slot[kColumns];
  float value[kColumns], gate[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    slot[c] = piece_slot(p, plan, s, first + c, 0) + tid;
    value[c] = gate[c] = 0.0f;
  }
#pragma unroll 1
  for (int start = 0; start < pieces; start += kBatch) {
    float u[kColumns][kBatch], g[kColumns][kBatch];
    SpinGuard guard;
    while (true) {
      bool all = true;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          const float* at = slot[c] + min(start + k, pieces - 1) * kTileRows;
          u[c][k] = load_relaxed(at);
          g[c][k] = load_relaxed(at + kBoxRows);
        }
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int k = 0; k < kBatch; ++k) all = all & is_here(u[c][k]) & is_here(g[c][k]);
      }
      if (all) break;
      guard.tick();
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (start + k < pieces) {
          float* at = slot[c] + (start + k) * kTileRows;
          store_relaxed(at, 0.0f);
          store_relaxed(at + kBoxRows, 0.0f);
          value[c] += u[c][k];
          gate[c] += g[c][k];
        }
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    value[c] *= __fdividef(gate[c], 1.0f + __expf(-gate[c]));
    // Floats that are not negative have the order of their bits.
    const uint32_t m = __reduce_max_sync(~0u, __float_as_uint(fmaxf(fabsf(value[c]), 0.0f)));
    if (tid % 32 == 0) shared.amax[tid / 32][first + c] = __uint_as_float(m);
  }
  team_barrier<S>();
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = first + c;
    float m = 0.0f;
#pragma unroll
    for (int w = 0; w < S::kTeamWarps; ++w) m = fmaxf(m, shared.amax[w][column]);
    const bool zero = m < 1e-30f;
    if (tid == 0) p.act_scale[static_cast<size_t>(s.block) * p.act_rows + s.row + column] = zero ? 0.0f : m / kFp8Max;
    const float inverse = zero ? 0.0f : kFp8Max / m;
    const __nv_fp8_storage_t q = __nv_cvt_float_to_fp8(value[c] * inverse, __NV_SATFINITE, __NV_E4M3);
    __stcg(p.act + static_cast<size_t>(s.row + column) * p.inter + s.block * kScaleBlock + tid, q);
  }
}

// By the team that has the last piece of a cut GEMM1 tile. The others have lower numbers, so they do not wait for it.
template <class S>
__device__ __forceinline__ void collect_gemm1(const Problem& p, const Plan& plan, const Segment& s, EpilogueShared<S>& shared) {
  if (s.piece != plan.pieces[0] - 1) return;
  int column = 0;
#pragma unroll 1
  for (; column + 2 <= s.cols; column += 2) finish_columns<S, 2>(p, plan, s, shared, column);
  if (column < s.cols) finish_columns<S, 1>(p, plan, s, shared, column);
  team_barrier<S>();
  if (team_thread<S>() == 0) red_add_release(p.zero.ready + s.group, 1);
}

// GEMM2, small T: adds the weighted rows of this piece to the fp32 output. The piece that completes a tile's columns of the
// output, the last of all groups, rounds them for every token and leaves zeros behind.
template <class S, int N>
__device__ __forceinline__ void add_gemm2(const Problem& p, const Plan& plan, const Segment& s, const Lists& lists,
                                          EpilogueShared<S>& shared, float (&acc)[S::kBlocks][N / 2]) {
  const int tid = team_thread<S>();
  const int pair = lists.at(p, s);
  const int column0 = 2 * (tid % 4);
  const int row0 = s.block * S::kTileRows;
#pragma unroll
  for (int j = 0; j < N / 8; ++j) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = 8 * j + column0 + c;
      if (column < s.cols) {
        const float w = lists.weight[pair + column];
        float* out = p.zero.out_acc + static_cast<size_t>(lists.token[pair + column]) * p.hidden + row0 + box_row(tid);
#pragma unroll
        for (int b = 0; b < S::kBlocks; ++b) {
          const int box = b % kBoxes;
          const int row = box * S::kBoxRows + b / kBoxes * 64;
          if (row0 + box * S::kBoxRows < p.hidden) {
            red_add_f32(out + row, w * acc[b][4 * j + c]);
            red_add_f32(out + row + 8, w * acc[b][4 * j + 2 + c]);
          }
        }
      }
    }
  }
  team_barrier<S>();
  if (tid == 0) {
    int* arrivals = p.zero.arrivals2 + s.block;
    const int all = plan.group_base[kMaxLocalExperts] * plan.pieces[1] * S::kTileTeams;
    shared.last = add_acq_rel(arrivals, 1) == all - 1;
    if (shared.last) *arrivals = 0;
  }
  team_barrier<S>();
  if (!shared.last) return;
  // Several loads go out before the first store: the compiler cannot tell that they do not overlap.
  constexpr int kBatch = S::kMaxCols > 16 ? 8 : 4;
  const int pieces = min(S::kTileRows, p.hidden - row0) / 8;  // of 8 columns per token
  const int total = p.tokens * pieces;
  for (int start = tid; start < total; start += kBatch * S::kTeamThreads) {
    float4 sum[kBatch][2];
    size_t at[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = min(start + k * S::kTeamThreads, total - 1);
      at[k] = static_cast<size_t>(i / pieces) * p.hidden + row0 + i % pieces * 8;
      const float4* from = reinterpret_cast<const float4*>(p.zero.out_acc + at[k]);
      sum[k][0] = __ldcg(from);
      sum[k][1] = __ldcg(from + 1);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (start + k * S::kTeamThreads >= total) break;
      float4* from = reinterpret_cast<float4*>(p.zero.out_acc + at[k]);
      __stcg(from, make_float4(0.f, 0.f, 0.f, 0.f));
      __stcg(from + 1, make_float4(0.f, 0.f, 0.f, 0.f));
      const float4 a = sum[k][0], b = sum[k][1];
      __nv_bfloat162 h[4] = {__floats2bfloat162_rn(a.x, a.y), __floats2bfloat162_rn(a.z, a.w),
                             __floats2bfloat162_rn(b.x, b.y), __floats2bfloat162_rn(b.z, b.w)};
      *reinterpret_cast<uint4*>(p.out + at[k]) = *reinterpret_cast<uint4*>(h);
    }
  }
}

// No token has a local expert: zeros, one share per thread block.
__device__ __forceinline__ void write_zeros(const Problem& p) {
  const int total = p.tokens * (p.hidden / 8);
  for (int i = blockIdx.x * kConsumerThreads + threadIdx.x; i < total; i += gridDim.x * kConsumerThreads) {
    reinterpret_cast<uint4*>(p.out)[i] = make_uint4(0, 0, 0, 0);
  }
}

// 16 bytes of a weighted row of a listed token, from `column` on: stored if the token has no other row, else added to zeros. Each
// addition rounds to bf16, the first without loss: with two local experts the result is that of a sum in fp32.
template <class S>
__device__ __forceinline__ void put_row(const Problem& p, int token, int column, uint4 q) {
  __nv_bfloat16* out = p.out + ((token & kTokenBits) * p.hidden + column);  // T * H is below 2^31
  if (token & kAlone) {
    __stcg(reinterpret_cast<uint4*>(out), q);
  } else if constexpr (S::kKeepsRows) {
    red_add_bf16x8(out, q, policy_evict_last());
  } else {
    red_add_bf16x8(out, q);
  }
}

// GEMM2, large T: writes or adds the weighted expert outputs as bf16 rows. They pass through shared memory, kChunk tokens of
// one box at a time, so that whole 16-byte pieces reach device memory.
template <class S, int N>
__device__ __forceinline__ void put_gemm2(const Problem& p, const Segment& s, const Lists& lists, EpilogueShared<S>& shared,
                                          uint8_t* staging, float (&acc)[S::kBlocks][N / 2]) {
  constexpr int kPitch = 2 * kBoxRows + 16;  // bytes per token
  constexpr int kChunk = S::kMaxCols / 2;
  static_assert(kChunk * kPitch <= S::kStagingBytes, "staging area");
  const int tid = team_thread<S>();
  const int lane = tid % 32;
  if (tid < N) {
    const int pair = lists.at(p, s) + tid;
    shared.weight[tid] = tid < s.cols ? lists.weight[pair] : 0.0f;
    shared.token[tid] = tid < s.cols ? lists.token[pair] : 0;
  }
#pragma unroll
  for (int b = 0; b < kBoxes; ++b) {
    const int first = (kBoxes * s.block + b) * kBoxRows;
#pragma unroll
    for (int start = 0; start < N; start += kChunk) {
      team_barrier<S>();
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        if (i / 4 * 8 >= start && i / 4 * 8 < start + kChunk) {
          const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
#pragma unroll
          for (int h = 0; h < S::kHalves; ++h) {
            const int row = 64 * h + box_row(tid) + 8 * (i / 2 % 2);
            *reinterpret_cast<__nv_bfloat16*>(staging + (column - start) * kPitch + 2 * row) =
                __float2bfloat16_rn(acc[h * kBoxes + b][i] * shared.weight[column]);
          }
        }
      }
      team_barrier<S>();
      const int columns = first < p.hidden ? min(kChunk, s.cols - start) : 0;
      for (int i = tid; i < columns * 16; i += S::kTeamThreads) {
        const int column = i / 16, piece = i % 16;
        const uint4 q = *reinterpret_cast<const uint4*>(staging + column * kPitch + piece * 16);
        put_row<S>(p, shared.token[start + column], first + piece * 8, q);
      }
    }
  }
  // The same at the end where the next item may be one of rows.cuh, whose warps write there without meeting others.
  team_barrier<S>();
}

}  // namespace hopper_v15
