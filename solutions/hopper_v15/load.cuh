// Loading a kernel, of which each translation unit has its own.
#pragma once

#include <cuda_runtime_api.h>

#include "arguments.cuh"
#include "launch.cuh"

namespace hopper_v15 {

constexpr int kMostDevices = 64;

// The first time on a device this releases the caller's lock: loading may wait for what the device has been given, and that for a
// launch by another thread. A handle is written under the lock, when all that a launch needs is there. Until then whoever calls
// meanwhile loads the kernel as well, which changes nothing and yields the same handle. The caller must not have read what another
// call may change, of the workspace above all; a tensor's sizes are no longer to be read.
//
// What is kept is static: it belongs to this library, as a kernel's handle does, whatever namespace a copy of it has.
template <auto* kKernel>
static cudaError_t load(int device, int threads, int shared_bytes, Kernel& kernel) {
  static CUfunction handles[kMostDevices];
  if (device < 0 || device >= kMostDevices) return cudaErrorInvalidDevice;
  if (!handles[device]) {
    const void* const symbol = reinterpret_cast<const void*>(kKernel);
    cudaFunction_t loaded = nullptr;
    cudaError_t e;
    {
      const Unlocked unlocked;
      e = cudaFuncSetAttribute(symbol, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
      if (e == cudaSuccess) e = cudaGetFuncBySymbol(&loaded, symbol);
    }
    if (e != cudaSuccess) return e;
    handles[device] = loaded;
  }
  kernel = Kernel{handles[device], threads, shared_bytes};
  return cudaSuccess;
}

}  // namespace hopper_v15
