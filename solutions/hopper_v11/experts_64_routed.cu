// 129 to 1,200 tokens: groups as for 17 to 128, but another kernel has routed them.
#include "experts.cuh"
#include "load.cuh"

namespace hopper_v11 {

cudaError_t load_experts_64_routed(int device, Kernel& kernel) {
  using S = Shape<64, 2, 2, 2, 3>;
  return load<experts_kernel<S, 0>>(device, S::kBlockThreads, S::kBytes, kernel);
}

}  // namespace hopper_v11
