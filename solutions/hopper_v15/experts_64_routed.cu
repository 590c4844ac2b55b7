// 129 to 1,200 tokens, which another kernel has routed. Groups have up to 64 tokens, as for 17 to 128, and each warpgroup multiplies one
// of its own; or, where that is better, up to 128, or there are few, and both warpgroups multiply the same (routed_groups). Thin tiles
// would take a tenth less time with one or two groups, and their code costs many up to 1%
// (results/2026-11-29-h200-hopper-v14/thin.log).
#include <algorithm>

#include "experts.cuh"
#include "load.cuh"

namespace hopper_v15 {

cudaError_t load_experts_64_routed(int device, Kernel& kernel) {
  using S = Shape<64, 2, 2, 2, 3>;
  using W = Shape<128, 2, 2, 1, 4>;
  return load<experts_kernel<S, W, S, 0>>(device, S::kBlockThreads, std::max(S::kBytes, W::kBytes), kernel);
}

}  // namespace hopper_v15
