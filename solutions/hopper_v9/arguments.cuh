// What binding.cpp reads from a call's arguments and hands to moe.cu. Knows neither torch nor Python.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace hopper_v9 {

// A contiguous tensor on the call's device; its element type and its number of dimensions have been checked.
struct Tensor {
  void* data;
  const int64_t* sizes;  // the caller's, for the time of the call
};

struct Arguments {
  Tensor logits, bias, x, x_scale, w13, w13_scale, w2, w2_scale, out;
  int expert_offset;
  float scaling;
  int device;
  cudaStream_t stream;
};

// Throws std::invalid_argument where the shapes do not fit and std::runtime_error where CUDA fails. The caller keeps other threads
// from calling it at the same time.
void run(const Arguments& a);

}  // namespace hopper_v9
