// The kernels as the host sees them. The expert kernel's variants are spread over four translation units, so that they compile in
// parallel.
#pragma once

// The builder asks for no optimisation of host code, which then takes several times as long. nvcc hands on this pragma.
#pragma nv_diag_suppress 1675
#pragma GCC optimize("O2", "inline")
#pragma nv_diag_default 1675

#include <cuda.h>
#include <cuda_runtime.h>

#include "params.cuh"

namespace hopper_v15 {

enum class Variant { kCols16, kCols64, kCols64Routed, kCols128 };

// Columns per token group, which the workspace sizes depend on: the least that a variant may choose.
constexpr int max_columns(Variant v) { return v == Variant::kCols16 ? 16 : v == Variant::kCols128 ? 128 : 64; }

// Whether routing happens inside the kernel, and the output is summed in fp32.
constexpr bool is_inside(Variant v) { return v == Variant::kCols16 || v == Variant::kCols64; }

// 128s of K in a pipeline stage.
constexpr int chunks_per_stage(Variant v) { return v == Variant::kCols128 ? 1 : 2; }

// Whether the kernel has thin tiles.
constexpr bool has_thin(Variant v) { return v == Variant::kCols64; }

// One that is loaded for a device and allowed its shared memory.
struct Kernel {
  CUfunction function;
  int threads;  // of a thread block
  int shared_bytes;
};

// Of the expert kernel; its arguments are those of experts_kernel. `device` is current. They may release the caller's
// lock (load.cuh).
cudaError_t load_experts_16(int device, Kernel& kernel);
cudaError_t load_experts_64(int device, Kernel& kernel);
cudaError_t load_experts_64_routed(int device, Kernel& kernel);
cudaError_t load_experts_128(int device, Kernel& kernel);

}  // namespace hopper_v15
