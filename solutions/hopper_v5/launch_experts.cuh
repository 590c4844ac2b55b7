// Shared body of the launch_experts_* functions.
#pragma once

#include <atomic>

#include "experts.cuh"
#include "launch.cuh"

namespace hopper_v5 {

template <class S, int kTokens>
cudaError_t launch_experts(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2) {
  auto kernel = experts_kernel<S, kTokens>;
  static std::atomic<uint64_t> prepared{0};  // bit per device
  const uint64_t bit = uint64_t(1) << (l.device % 64);
  if (!(prepared.load(std::memory_order_relaxed) & bit)) {
    const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
    if (e != cudaSuccess) return e;
    prepared.fetch_or(bit);
  }
  cudaLaunchAttribute attribute = overlap_predecessor();
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(l.multiprocessors);
  config.blockDim = dim3(S::kBlockThreads);
  config.dynamicSmemBytes = S::kBytes;
  config.stream = l.stream;
  config.attrs = &attribute;
  config.numAttrs = kTokens > 0 ? 0 : 1;
  return cudaLaunchKernelEx(&config, kernel, p, w13, w2);
}

}  // namespace hopper_v5
