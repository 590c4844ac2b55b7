// Device memory and tensor maps that live between calls. Both are functions of addresses and sizes, never of contents:
// every call writes what it reads.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "arguments.cuh"
#include "launch.cuh"

namespace hopper_v15 {

__attribute__((cold, noinline, noreturn)) static void cuda_failed(const char* call, const char* error, const char* meaning) {
  (void)cudaGetLastError();  // or whoever checks a launch next would report it
  throw std::runtime_error(std::string(call) + ": " + error + ": " + meaning);
}

#define MOE_CUDA(call)                                                                                            \
  do {                                                                                                            \
    const cudaError_t moe_error = (call);                                                                         \
    if (moe_error != cudaSuccess) cuda_failed(#call, cudaGetErrorName(moe_error), cudaGetErrorString(moe_error)); \
  } while (0)

// One growing allocation.
class Buffer {
 public:
  // Growing frees the old block, for which cudaFree waits until the device no longer uses it, and that may take a launch by another
  // thread: the caller's lock is released, and whoever calls meanwhile finds no block and makes one. Of several the largest
  // stays. A new one is zero where `zeroed`, from the next work on `stream` on. Where a step fails, what there is then is put back.
  void reserve(size_t bytes, bool zeroed, cudaStream_t stream) {
    if (bytes <= block_.bytes) return;
    // What makes it zero would be work of the graph alone.
    cudaStreamCaptureStatus capture;
    MOE_CUDA(cudaStreamIsCapturing(stream, &capture));
    if (capture != cudaStreamCaptureStatusNone) {
      throw std::runtime_error(
          "workspace memory cannot grow while a CUDA graph is captured: before, call with as many tokens on this stream");
    }
    Taken taken(block_);
    const Unlocked unlocked;  // ends before `taken`
    Block& block = taken.block;
    MOE_CUDA(cudaFree(block.data));
    block = Block{};
    MOE_CUDA(cudaMalloc(&block.data, bytes));
    if (zeroed) MOE_CUDA(cudaMemsetAsync(block.data, 0, bytes, stream));
    block.bytes = bytes;
  }
  // The contents are not what the next call needs, and work on its way may still change them: it makes a new block.
  void forget() { block_.bytes = 0; }
  uint8_t* data() const { return static_cast<uint8_t*>(block_.data); }
  size_t bytes() const { return block_.bytes; }

 private:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;  // 0 with data: of no use but to be freed
  };
  // Holds a buffer's block while the lock is released. Its own ends are under the lock.
  struct Taken {
    explicit Taken(Block& home) : block(std::exchange(home, Block{})), home_(home) {}
    ~Taken() {
      if (!home_.data || home_.bytes < block.bytes) std::swap(home_, block);
      if (!block.data) return;
      // Another thread has made one too.
      const Unlocked unlocked;
      if (cudaFree(block.data) != cudaSuccess) (void)cudaGetLastError();
    }
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;
    Block block;

   private:
    Block& home_;
  };
  Block block_;
};

// Per (device, stream): calls on different streams may overlap, calls on one stream may not.
struct Workspace {
  Buffer scratch;
  Buffer zeroed;  // all zero between calls, so its layout may differ from call to call
};

// Never destroyed: at process exit the CUDA context may be gone before static destructors run.
inline Workspace& workspace_for(int device, cudaStream_t stream) {
  using Key = std::pair<int, cudaStream_t>;
  static auto* all = new std::map<Key, Workspace>;
  static Key last_key;
  static Workspace* last = nullptr;
  const Key key{device, stream};
  if (!last || last_key != key) {
    last = &(*all)[key];
    last_key = key;
  }
  return *last;
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

// Fill in the workspace pointers of `p` from `base`; return the bytes needed.
inline size_t carve_zeroed(Problem& p, Variant variant, uint8_t* base) {
  const int cols = max_columns(variant);
  const bool inside = is_inside(variant);
  const size_t T = p.tokens, L = p.experts, H = p.hidden, I = p.inter;
  const size_t pairs = T * (p.experts < kTopK ? p.experts : kTopK);
  const size_t groups = pairs / cols + L;
  const bool collects = variant == Variant::kCols16;
  const size_t tiles1 = collects || variant == Variant::kCols128 ? 0 : kPartialGroups * (I / kScaleBlock);
  // Of thin tiles there are two in place of one, in GEMM2 too, and each is summed in two places of a quarter of the size.

  Carver c(base);
  Zeroed& z = p.zero;
  z.counts = c.take<int>(L);
  z.ticket = c.take<int>(1);  // each counter in a line of its own: all multiprocessors poll or draw
  z.token_ticket = c.take<int>(1);
  z.tokens_done = c.take<int>(1);
  z.exits = c.take<int>(1);
  z.ready = c.take<int>(groups);
  z.arrivals1 = c.take<int>(tiles1 * 4);
  z.arrivals2 = c.take<int>(ceil_div(p.hidden, kBoxRows));
  z.partial = c.take<float>(tiles1 * kTileRows * cols);
  z.pieces = collects ? c.take<float>(T * kMostCut * (I / kScaleBlock) * kTileRows) : nullptr;
  z.masks = variant == Variant::kCols64 ? c.take<uint32_t>(T) : nullptr;
  z.weights = variant == Variant::kCols64 ? c.take<float>(T * kTopK) : nullptr;
  z.out_acc = inside ? c.take<float>(T * H) : nullptr;
  return c.used();
}

inline size_t carve_scratch(Problem& p, Variant variant, uint8_t* base) {
  const bool inside = is_inside(variant);
  const size_t T = p.tokens, L = p.experts, I = p.inter;
  const size_t pairs = T * (p.experts < kTopK ? p.experts : kTopK);
  Carver c(base);
  p.pair_token = inside ? nullptr : c.take<int>(L * T);
  p.pair_weight = inside ? nullptr : c.take<float>(L * T);
  p.local_pairs = inside ? nullptr : c.take<int>(T);
  p.act = c.take<uint8_t>(pairs * I);
  p.act_scale = c.take<float>(pairs * (I / (has_thin(variant) ? kThinBoxRows : kScaleBlock)));
  p.act_rows = static_cast<int>(pairs);
  return c.used();
}

// Tensor map of row-major fp8 weights [rows, cols] as [cols / 128, rows, 128], read in boxes of `chunks` x `box_rows` x 128
// bytes with 128-byte swizzle. Promotion to 256 bytes makes the L2 fetch ahead of the box and costs 4% of the bandwidth of a
// long stream.
inline CUtensorMap encode_weights(const void* data, uint64_t rows, uint64_t cols, uint32_t chunks, uint32_t box_rows, int device) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                              const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* symbol = nullptr;
    cudaDriverEntryPointQueryResult status;
    MOE_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000, cudaEnableDefault, &status));
    if (status != cudaDriverEntryPointSuccess) throw std::runtime_error("cuTensorMapEncodeTiled: not in this driver");
    return reinterpret_cast<Encode>(symbol);
  }();
  CUtensorMap map;
  const cuuint64_t dims[3] = {kScaleBlock, rows, cols / kScaleBlock};
  const cuuint64_t strides[2] = {cols, kScaleBlock};
  const cuuint32_t box[3] = {kScaleBlock, box_rows, chunks};
  const cuuint32_t step[3] = {1, 1, 1};
  const auto once = [&] {
    return encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, const_cast<void*>(data), dims, strides, box, step,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  CUresult r = once();
  if (r == CUDA_ERROR_INVALID_CONTEXT) {  // a thread that has not used the device yet, as in launch()
    MOE_CUDA(cudaSetDevice(device));
    r = once();
  }
  if (r != CUDA_SUCCESS) {
    throw std::runtime_error("cuTensorMapEncodeTiled(" + std::to_string(rows) + " x " + std::to_string(cols) + "): error " +
                             std::to_string(static_cast<int>(r)));
  }
  return map;
}

// The same from a small cache. A map is a function of the address and the sizes alone; `device` is the current one. The caller's lock
// is held.
inline CUtensorMap weights_map(const void* data, uint64_t rows, uint64_t cols, uint32_t chunks, uint32_t box_rows, int device) {
  struct Key {
    const void* data = nullptr;
    uint64_t rows = 0, cols = 0;
    uint32_t chunks = 0, box_rows = 0;
  };
  constexpr int kEntries = 32;  // a layer uses four at T = 17 to 128, two at others
  static Key keys[kEntries];  // apart from the maps: a search then reads fewer cache lines
  static CUtensorMap maps[kEntries];
  static int oldest = 0;
  for (int i = 0; i < kEntries; ++i) {
    const Key& k = keys[i];
    if (k.data == data && k.rows == rows && k.cols == cols && k.chunks == chunks && k.box_rows == box_rows) return maps[i];
  }
  const int at = oldest;
  keys[at] = Key{};  // encoding may throw
  maps[at] = encode_weights(data, rows, cols, chunks, box_rows, device);
  keys[at] = Key{data, rows, cols, chunks, box_rows};
  oldest = (oldest + 1) % kEntries;
  return maps[at];
}

}  // namespace hopper_v15
