// Device memory and tensor maps that live between calls. Both are functions of addresses and sizes, never of contents:
// every call writes what it reads.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstddef>
#include <map>
#include <utility>

#include "launch.cuh"

#define MOE_CUDA(call)                                                                             \
  do {                                                                                             \
    const cudaError_t moe_error = (call);                                                          \
    if (moe_error != cudaSuccess)                                                                  \
      TVM_FFI_THROW(RuntimeError) << #call << ": " << cudaGetErrorName(moe_error) << ": "          \
                                  << cudaGetErrorString(moe_error);                                \
  } while (0)

namespace hopper_v2 {

// One growing allocation per (device, stream): calls on different streams may overlap, calls on one stream may not.
class Workspace {
 public:
  // Growing frees the old buffer, for which cudaFree waits until the device no longer uses it.
  uint8_t* reserve(size_t bytes) {
    if (bytes > bytes_) {
      if (data_) MOE_CUDA(cudaFree(data_));
      data_ = nullptr;
      bytes_ = 0;
      MOE_CUDA(cudaMalloc(&data_, bytes));
      bytes_ = bytes;
    }
    return static_cast<uint8_t*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Never destroyed: at process exit the CUDA context may be gone before static destructors run.
inline Workspace& workspace_for(int device, cudaStream_t stream) {
  static auto* all = new std::map<std::pair<int, cudaStream_t>, Workspace>;
  return (*all)[{device, stream}];
}

// Deals out aligned pieces of one buffer; with a null base it only measures.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}
  template <class T>
  T* take(size_t count) {
    used_ = (used_ + 255) / 256 * 256;
    T* p = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += count * sizeof(T);
    return p;
  }
  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

// Fills in the workspace pointers of `p` from `base`; returns the bytes needed.
inline size_t carve(Problem& p, Variant variant, int multiprocessors, uint8_t* base) {
  const int cols = max_columns(variant);
  const bool store_pairs = variant == Variant::kCols128;
  const size_t T = p.tokens, L = p.experts, H = p.hidden, I = p.inter;
  const size_t pairs = T * (p.experts < kTopK ? p.experts : kTopK);
  const size_t groups = pairs / cols + L;
  const size_t tiles1 = L * (I / kScaleBlock);  // of the split schedule: one group per expert
  const size_t tiles2 = L * ceil_div(p.hidden, kBoxes * kBoxRows);

  Carver c(base);
  p.control_ints = static_cast<int>(L + 1 + groups + tiles1 + tiles2);
  int* control = c.take<int>(p.control_ints);
  p.control.counts = control;
  p.control.done = control + L;
  p.control.ready = control + L + 1;
  p.control.arrivals1 = control + L + 1 + groups;
  p.control.arrivals2 = control + L + 1 + groups + tiles1;
  p.pair_token = c.take<int>(L * T);
  p.pair_weight = c.take<float>(L * T);
  p.token_slots = c.take<int>(T * kTopK);
  p.row_base = c.take<int>(L);
  p.act = c.take<uint8_t>(pairs * I);
  p.act_scale = c.take<float>(pairs * (I / kScaleBlock));
  p.act_rows = static_cast<int>(pairs);
  p.partial_slot = static_cast<long long>(kBoxes * kBoxRows) * cols;
  const size_t slots = tiles1 + multiprocessors + (store_pairs ? tiles2 + multiprocessors : 0);
  p.partial = c.take<float>(slots * p.partial_slot);
  p.out_acc = store_pairs ? nullptr : c.take<float>(T * H);
  p.pair_out = store_pairs ? c.take<__nv_bfloat16>(pairs * H) : nullptr;
  return c.used();
}

// Tensor map of row-major fp8 weights [rows, cols], read in boxes of 128 rows x 128 bytes with 128-byte swizzle. Promotion to
// 256 bytes makes the L2 fetch ahead of the box and costs 4% of the bandwidth of a long stream.
inline CUtensorMap encode_weights(const void* data, uint64_t rows, uint64_t cols) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                              const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* symbol = nullptr;
    cudaDriverEntryPointQueryResult status;
    MOE_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000, cudaEnableDefault, &status));
    if (status != cudaDriverEntryPointSuccess) TVM_FFI_THROW(RuntimeError) << "cuTensorMapEncodeTiled: not in this driver";
    return reinterpret_cast<Encode>(symbol);
  }();
  CUtensorMap map;
  const cuuint64_t dims[2] = {cols, rows};
  const cuuint64_t strides[1] = {cols};
  const cuuint32_t box[2] = {kScaleBlock, kBoxRows};
  const cuuint32_t step[2] = {1, 1};
  const CUresult r = encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), dims, strides, box, step,
                            CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS) {
    TVM_FFI_THROW(RuntimeError) << "cuTensorMapEncodeTiled(" << rows << " x " << cols << "): error " << static_cast<int>(r);
  }
  return map;
}

}  // namespace hopper_v2
