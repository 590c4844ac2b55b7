// Many tokens: tiles of 256 rows x 128 tokens, results stored to the output or added to it.
#include "experts.cuh"
#include "load.cuh"

namespace hopper_v15 {

cudaError_t load_experts_128(int device, Kernel& kernel) {
  using S = Shape<128, 1, 4, 1, 6>;
  return load<experts_kernel<S, S, S, 0>>(device, S::kBlockThreads, S::kBytes, kernel);
}

}  // namespace hopper_v15
