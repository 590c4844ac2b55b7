// Host-side launches. The expert kernel's variants are spread over three translation units, so that they compile in parallel.
#pragma once

// The builder asks for no optimisation of host code, which then takes several times as long. nvcc hands on this pragma.
#pragma nv_diag_suppress 1675
#pragma GCC optimize("O2", "inline")
#pragma nv_diag_default 1675

#include <cuda.h>
#include <cuda_runtime.h>

#include "params.cuh"

namespace hopper_v10 {

enum class Variant { kCols16, kCols64, kCols64Routed, kCols128 };

// Columns per token group, which the workspace sizes depend on.
constexpr int max_columns(Variant v) { return v == Variant::kCols16 ? 16 : v == Variant::kCols128 ? 128 : 64; }

// Whether routing happens inside the kernel, and the output is summed in fp32.
constexpr bool is_inside(Variant v) { return v == Variant::kCols16 || v == Variant::kCols64; }

// 128s of K in a pipeline stage.
constexpr int chunks_per_stage(Variant v) { return v == Variant::kCols128 ? 1 : 2; }

struct Launch {
  cudaStream_t stream;
  int device;
  int multiprocessors;
};

cudaError_t launch_experts_16(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2);
cudaError_t launch_experts_64(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2);
cudaError_t launch_experts_64_routed(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2);
cudaError_t launch_experts_128(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2);

}  // namespace hopper_v10
