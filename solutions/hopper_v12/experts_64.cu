// 17 to 128 tokens: few per expert as a rule, up to 64 before an expert's weights are read twice. A stage holds 256 of K for longer
// rows. A limit of boxes on their way made the kernel slower with 128 of K; with 256 none has been tried.
#include "experts.cuh"
#include "load.cuh"

namespace hopper_v12 {

cudaError_t load_experts_64(int device, Kernel& kernel) {
  using S = Shape<64, 2, 2, 2, 0>;
  return load<experts_kernel<S, S, 128>>(device, S::kBlockThreads, S::kBytes, kernel);
}

}  // namespace hopper_v12
