// T <= 16: a group has at most 16 tokens, so a stage can hold 256 of K: longer rows, which the memory likes.
#include "launch_experts.cuh"

namespace hopper_v10 {

cudaError_t launch_experts_16(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2) {
  return launch_experts<Shape<16, 2, 3, 2, 2>, 16>(l, p, w13, w2);
}

}  // namespace hopper_v10
