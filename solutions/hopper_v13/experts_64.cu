// 17 to 128 tokens: few per expert as a rule, up to 64 before an expert's weights are read twice. A stage holds 256 of K for longer
// rows. Each warpgroup multiplies tiles of its own; or, where there are few (narrow_tiling), both multiply the same. A limit of boxes on
// their way brings nothing (results/2026-11-29-h200-hopper-v13/few.log).
#include <algorithm>

#include "experts.cuh"
#include "load.cuh"

namespace hopper_v13 {

cudaError_t load_experts_64(int device, Kernel& kernel) {
  using S = Shape<64, 2, 2, 2, 0>;
  using W = Shape<64, 2, 2, 1, 0>;
  return load<experts_kernel<S, W, 128>>(device, S::kBlockThreads, std::max(S::kBytes, W::kBytes), kernel);
}

}  // namespace hopper_v13
