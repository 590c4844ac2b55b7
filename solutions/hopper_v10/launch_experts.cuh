// Shared body of the launch_experts_* functions.
#pragma once

#include <cuda_runtime_api.h>

#include "experts.cuh"
#include "launch.cuh"

namespace hopper_v10 {

// The driver's launch: the runtime's looks the kernel up on every call. Null if the driver has none. This and the next are static,
// as the kernel is: what they keep belongs to this library, whatever namespace a copy of it has.
static auto driver_launch() {
  using Launcher = CUresult (*)(const CUlaunchConfig*, CUfunction, void**, void**);
  static const Launcher launcher = [] {
    void* symbol = nullptr;
    cudaDriverEntryPointQueryResult status;
    const cudaError_t e = cudaGetDriverEntryPointByVersion("cuLaunchKernelEx", &symbol, 12000, cudaEnableDefault, &status);
    return e == cudaSuccess && status == cudaDriverEntryPointSuccess ? reinterpret_cast<Launcher>(symbol) : nullptr;
  }();
  return launcher;
}

// The caller's lock is held.
template <class S, int kTokens>
static cudaError_t launch_experts(const Launch& l, const Problem& p, const CUtensorMap& w13, const CUtensorMap& w2) {
  auto kernel = experts_kernel<S, kTokens>;
  constexpr int kMostDevices = 64;
  static CUfunction functions[kMostDevices];  // loaded for this device and allowed its shared memory
  if (l.device < 0 || l.device >= kMostDevices) return cudaErrorInvalidDevice;
  CUfunction& function = functions[l.device];
  if (!function) {
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
    if (e != cudaSuccess) return e;
    cudaFunction_t loaded = nullptr;
    e = cudaGetFuncBySymbol(&loaded, reinterpret_cast<const void*>(kernel));
    if (e != cudaSuccess) return e;
    function = loaded;
  }
  const auto launch = driver_launch();
  if (!launch) return cudaErrorNotSupported;
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;  // starts while route_chunks runs
  attribute.value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config{};
  config.gridDimX = l.multiprocessors;
  config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = S::kBlockThreads;
  config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = S::kBytes;
  config.hStream = l.stream;
  config.attrs = &attribute;
  config.numAttrs = kTokens > 0 ? 0 : 1;
  void* arguments[] = {const_cast<Problem*>(&p), const_cast<CUtensorMap*>(&w13), const_cast<CUtensorMap*>(&w2)};
  CUresult result = launch(&config, function, arguments, nullptr);
  if (result == CUDA_ERROR_INVALID_CONTEXT) {  // a thread that has not used the device yet; the runtime's launch would bind it
    const cudaError_t e = cudaSetDevice(l.device);
    if (e != cudaSuccess) return e;
    result = launch(&config, function, arguments, nullptr);
  }
  return static_cast<cudaError_t>(result);  // both enumerations have the same numbers
}

}  // namespace hopper_v10
