// 17 to 128 tokens: few per expert as a rule, up to 64 before an expert's weights are read twice. A stage holds 256 of K for longer
// rows. Each warpgroup multiplies tiles of its own; or, where there are few (tiling.cuh), both multiply the same, or with still fewer one
// of half the rows. A limit of boxes on their way brings nothing (results/2026-11-29-h200-hopper-v13/few.log).
#include "experts.cuh"
#include "load.cuh"

namespace hopper_v15 {

cudaError_t load_experts_64(int device, Kernel& kernel) {
  using S = Shape<64, 2, 2, 2, 0>;
  using W = Shape<64, 2, 2, 1, 0>;
  using H = Shape<64, 2, 3, 1, 0, kThinBoxRows>;
  // More shared memory, for a fourth stage of H, would leave 28 KB of L1, not 60. It gains nothing, and many experts took 0.3 to 0.5%
  // longer with it in two comparisons of three (results/2026-11-29-h200-hopper-v14/thin.log, 12 to 14).
  static_assert(W::kBytes <= S::kBytes && H::kBytes <= S::kBytes);
  return load<experts_kernel<S, W, H, 128>>(device, S::kBlockThreads, S::kBytes, kernel);
}

}  // namespace hopper_v15
