// 17 to 1,200 tokens: few per expert as a rule, up to 64 before an expert's weights are read twice. A stage holds 256 of K for longer
// rows. Up to 128 tokens a limit of boxes on their way made the kernel slower with 128 of K; with 256 none has been tried.
#include "launch_experts.cuh"

namespace hopper_v10 {

cudaError_t launch_experts_64(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2) {
  return launch_experts<Shape<64, 2, 2, 2, 0>, 128>(l, p, w13, w2);
}

cudaError_t launch_experts_64_routed(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2) {
  return launch_experts<Shape<64, 2, 2, 2, 3>, 0>(l, p, w13, w2);
}

}  // namespace hopper_v10
