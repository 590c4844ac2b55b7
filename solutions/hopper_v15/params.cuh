// What the kernels of one call are given. Plain pointers and sizes; everything here lives on one device.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "config.cuh"

namespace hopper_v15 {

// Counters and sums that are zero when a call begins. Whoever needs one last sets it back to zero, so that no launch is
// spent on clearing memory.
struct Zeroed {
  int* counts;        // [L] tokens per local expert; T > kRoutedInside
  int* ticket;        // [1] next work item
  int* token_ticket;  // [1] next token to write zeros for; T > kRoutedInside
  int* tokens_done;   // [1] tokens whose zeros are written; T > kRoutedInside
  uint32_t* masks;    // [T] bit e: the token uses local expert e; kNoExpert: none; 16 < T <= kRoutedInside
  float* weights;     // [T, 8] its combine weights in the order of the bits, never zero; 16 < T <= kRoutedInside
  int* exits;         // [1] thread blocks that wait for nothing any more
  int* ready;         // [groups] finished GEMM1 tiles, times Shape::kReadyPerTile
  int* arrivals1;     // [kPartialGroups * I / 128 * 4] at most; pieces summed into a place of a cut GEMM1 tile
  int* arrivals2;     // [H / 128 at most] GEMM2 pieces summed into a tile's columns of the output
  float* partial;     // [kPartialGroups * I / 128, 256 rows * 64 columns] sums of cut GEMM1 tiles, in register order
  float* pieces;      // [pairs, I / 128, pieces, 256] pieces of cut GEMM1 tiles, up and gate rows; T <= 16, instead of `partial`
  float* out_acc;     // [T, H]; T <= kRoutedInside
};

struct Problem {
  int tokens;         // T
  int experts;        // L, local
  int hidden;         // H
  int inter;          // I
  int expert_offset;  // id of the first local expert
  int round;          // groups of which each thread block has one GEMM1 tile at most
  float scaling;      // routed_scaling_factor

  // Inputs.
  const float* logits;        // [T, 256]
  const __nv_bfloat16* bias;  // [256]
  const uint8_t* x;           // [T, H] e4m3
  const float* x_scale;       // [H / 128, T]
  const float* w13_scale;     // [L, 2 I / 128, H / 128]
  const float* w2_scale;      // [L, H / 128, I / 128]
  __nv_bfloat16* out;         // [T, H]

  // Workspace.
  Zeroed zero;
  int* pair_token;          // [L, T] tokens of each local expert, in no particular order, with kAlone; larger T
  float* pair_weight;       // [L, T] their combine weights
  int* local_pairs;         // [T] of each token
  uint8_t* act;             // [pairs, I] e4m3, SwiGLU output
  float* act_scale;         // [I / 128 or, of thin tiles, I / 64, act_rows]
  int act_rows;
};

// Tensor maps of the weights and, where tiles may be thin, maps of boxes of half as many rows.
template <bool kThin>
struct Maps {
  CUtensorMap w13, w2;
};
template <>
struct Maps<true> {
  CUtensorMap w13, w2, thin_w13, thin_w2;
};

// A mask that another thread block may read is never zero once the token is routed, and no token uses 32 experts.
constexpr uint32_t kNoExpert = ~0u;

// Set in a listed token whose only local expert this is: its row is the output itself.
constexpr int kAlone = 1 << 30;
constexpr int kTokenBits = kAlone - 1;

__host__ __device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

}  // namespace hopper_v15
