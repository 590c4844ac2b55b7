// What binding.cpp reads from a call's arguments and hands to moe.cu. Knows neither torch nor Python.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace hopper_v15 {

// A contiguous tensor on the call's device; its element type and its number of dimensions have been checked.
struct Tensor {
  void* data;
  const int64_t* sizes;  // the caller's, until run() first releases the lock
};

struct Arguments {
  Tensor logits, bias, x, x_scale, w13, w13_scale, w2, w2_scale, out;
  int expert_offset;
  float scaling;
  int device;
  cudaStream_t stream;
};

// Throws std::invalid_argument where the shapes do not fit and std::runtime_error where CUDA fails. The caller holds a lock that keeps
// other threads from calling it at the same time.
void run(const Arguments& a);

// While one lives, run() has released its caller's lock, and other calls may begin and end. The caller of run() defines it.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  void* const state_;
};

}  // namespace hopper_v15
