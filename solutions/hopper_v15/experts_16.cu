// T <= 16: a group has at most 16 tokens, so a stage can hold 256 of K: longer rows, which the memory likes.
#include "experts.cuh"
#include "load.cuh"

namespace hopper_v15 {

cudaError_t load_experts_16(int device, Kernel& kernel) {
  using S = Shape<16, 2, 3, 2, 2>;
  return load<experts_kernel<S, S, S, 16>>(device, S::kBlockThreads, S::kBytes, kernel);
}

}  // namespace hopper_v15
