// Many tokens: tiles of 256 rows x 128 tokens, results stored to the output or added to it.
#include "launch_experts.cuh"

namespace hopper_v10 {

cudaError_t launch_experts_128(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2) {
  return launch_experts<Shape<128, 1, 4, 1, 6>, 0>(l, p, w13, w2);
}

}  // namespace hopper_v10
