// What the kernels of one call are given. Plain pointers and sizes; everything here lives on one device.
#pragma once

#include <cuda_bf16.h>

#include "config.cuh"

namespace hopper_v2 {

// Counters of one call, all zeroed by the call itself before they are used.
struct Control {
  int* counts;     // [L] tokens per local expert
  int* done;       // [1] thread blocks past their last product
  int* ready;      // [groups] finished 128-column blocks of the intermediate, per token group
  int* arrivals1;  // [L * I / 128] K steps accumulated so far into a split GEMM1 tile
  int* arrivals2;  // [L * ceil(H / 256)] the same for GEMM2
};

struct Problem {
  int tokens;        // T
  int experts;       // L, local
  int hidden;        // H
  int inter;         // I
  int expert_offset; // id of the first local expert
  float scaling;     // routed_scaling_factor

  // Inputs.
  const float* logits;       // [T, 256]
  const __nv_bfloat16* bias; // [256]
  const uint8_t* x;          // [T, H] e4m3
  const float* x_scale;      // [H / 128, T]
  const float* w13_scale;    // [L, 2 I / 128, H / 128]
  const float* w2_scale;     // [L, H / 128, I / 128]
  __nv_bfloat16* out;        // [T, H]

  // Workspace.
  Control control;
  int control_ints;     // length of the whole control block, which starts at control.counts
  int* pair_token;      // [L, T] tokens of each local expert, in no particular order
  float* pair_weight;   // [L, T] their combine weights
  int* token_slots;     // [T, 8] expert * T + slot of each local pair of a token, -1 elsewhere
  int* row_base;        // [L] first row of an expert in `act` and `pair_out`
  uint8_t* act;         // [pairs, I] e4m3, SwiGLU output
  float* act_scale;     // [I / 128, act_rows]
  int act_rows;
  float* partial;       // accumulators of split tiles, one slot per (tile, thread block) that meet
  long long partial_slot;  // floats per slot
  float* out_acc;          // [T, H] fp32, small T
  __nv_bfloat16* pair_out; // [pairs, H] weighted expert outputs, large T
};

__host__ __device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

}  // namespace hopper_v2
