// The host's part of a call: checks the shapes, lays out the workspace and launches. One stream; no synchronisation, but where the
// workspace grows.
//
//   T <= 128: experts, which routes as well
//   larger T: route_chunks -> experts
//
// With larger T experts is launched while route_chunks runs and waits for it on the device (programmatic dependent launch).
#include "launch.cuh"  // first: optimises what follows

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <initializer_list>
#include <stdexcept>

#include "arguments.cuh"
#include "load.cuh"
#include "route_chunks.cuh"
#include "tiling.cuh"
#include "workspace.cuh"

namespace hopper_v15 {

constexpr int kMediumTokens = 1200;  // 256 of K in a stage up to here; at T = 2,048 and 2,500 128 take 2% less time

static Variant variant_for(int tokens) {
  if (tokens <= kRoutedByAll) return Variant::kCols16;
  if (tokens <= kRoutedInside) return Variant::kCols64;
  return tokens <= kMediumTokens ? Variant::kCols64Routed : Variant::kCols128;
}

struct Call {
  Problem problem;
  Kernel route, experts;
  int multiprocessors;
  Variant variant;
  Maps<true> maps;
  const Tilings* tilings;
  Workspace* workspace;
};

__attribute__((cold, noinline, noreturn, format(printf, 1, 2))) static void refuse(const char* format, ...) {
  char text[128];
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof(text), format, values);
  va_end(values);
  throw std::invalid_argument(text);
}

static void check_shape(const Tensor& t, const char* name, std::initializer_list<int64_t> shape) {
  int i = 0;
  for (const int64_t n : shape) {
    if (t.sizes[i] != n) refuse("%s: dimension %d is %ld, expected %ld", name, i, t.sizes[i], n);
    ++i;
  }
}

// Those of the call. Where one has not been used on the device before, this releases the caller's lock.
static void load_kernels(Variant variant, int device, Kernel& route, Kernel& experts) {
  if (!is_inside(variant)) MOE_CUDA(load<route_chunks>(device, kRouteThreads, 0, route));
  switch (variant) {
    case Variant::kCols16:
      MOE_CUDA(load_experts_16(device, experts));
      break;
    case Variant::kCols64:
      MOE_CUDA(load_experts_64(device, experts));
      break;
    case Variant::kCols64Routed:
      MOE_CUDA(load_experts_64_routed(device, experts));
      break;
    case Variant::kCols128:
      MOE_CUDA(load_experts_128(device, experts));
      break;
  }
}

// The driver's launch: the runtime's looks the kernel up on every call. Null if the driver has none.
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

// early: starts while the kernel before it runs.
static cudaError_t launch(const Kernel& kernel, int blocks, bool early, int device, cudaStream_t stream, void** arguments) {
  const auto launcher = driver_launch();
  if (!launcher) return cudaErrorNotSupported;
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  attribute.value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config{};
  config.gridDimX = blocks;
  config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = kernel.threads;
  config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = kernel.shared_bytes;
  config.hStream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  CUresult result = launcher(&config, kernel.function, arguments, nullptr);
  if (result == CUDA_ERROR_INVALID_CONTEXT) {  // a thread that has not used the device yet; the runtime's launch would bind it
    const cudaError_t e = cudaSetDevice(device);
    if (e != cudaSuccess) return e;
    result = launcher(&config, kernel.function, arguments, nullptr);
  }
  return static_cast<cudaError_t>(result);  // both enumerations have the same numbers
}

static int multiprocessor_count(int device) {
  static int known_device = -1;
  static int count = 0;
  if (device != known_device) {
    known_device = -1;
    MOE_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    known_device = device;
  }
  return count;
}

// The caller's lock is held.
static const Tilings* tilings_for(bool inside, int round) {
  static int known_round[2];
  static Tilings tilings[2];
  if (known_round[inside] != round) {
    tilings[inside] = make_tilings(inside, round);
    known_round[inside] = round;
  }
  return &tilings[inside];
}

// Makes a device current for its own lifetime.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) : device_(device) {
    MOE_CUDA(cudaGetDevice(&before_));
    if (before_ != device_) MOE_CUDA(cudaSetDevice(device_));
  }
  ~CurrentDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int device_, before_;
};

static Call prepare(const Arguments& a) {
  const int64_t T = a.x.sizes[0], H = a.x.sizes[1], L = a.w2.sizes[0], I = a.w2.sizes[2];
  // A pipeline stage holds 256 of K up to 1,200 tokens.
  if (H <= 0 || H % (2 * kScaleBlock) != 0) refuse("hidden_states: hidden size %ld, must be a positive multiple of 256", H);
  if (I <= 0 || I % (2 * kScaleBlock) != 0) refuse("gemm2_weights: intermediate size %ld, must be a positive multiple of 256", I);
  if (L <= 0 || L > kMaxLocalExperts) refuse("gemm2_weights: %ld local experts, must be 1 to %d", L, kMaxLocalExperts);
  // Row offsets and list positions are 32-bit.
  if (T * H >= int64_t(1) << 31 || T * kTopK * I >= int64_t(1) << 32 || L * T >= int64_t(1) << 31) {
    refuse("hidden_states: %ld tokens, too many for 32-bit offsets", T);
  }
  const int64_t HB = H / kScaleBlock, IB = I / kScaleBlock;
  check_shape(a.logits, "routing_logits", {T, kNumExperts});
  check_shape(a.bias, "routing_bias", {kNumExperts});
  check_shape(a.x_scale, "hidden_states_scale", {HB, T});
  check_shape(a.w13, "gemm1_weights", {L, 2 * I, H});
  check_shape(a.w13_scale, "gemm1_weights_scale", {L, 2 * IB, HB});
  check_shape(a.w2, "gemm2_weights", {L, H, I});
  check_shape(a.w2_scale, "gemm2_weights_scale", {L, HB, IB});
  check_shape(a.out, "output", {T, H});

  Call call;  // maps that it does not need stay as they are
  call.problem = Problem{};
  Problem& p = call.problem;
  p.tokens = static_cast<int>(T);
  p.experts = static_cast<int>(L);
  p.hidden = static_cast<int>(H);
  p.inter = static_cast<int>(I);
  p.expert_offset = a.expert_offset;
  p.scaling = a.scaling;
  p.logits = static_cast<const float*>(a.logits.data);
  p.bias = static_cast<const __nv_bfloat16*>(a.bias.data);
  p.x = static_cast<const uint8_t*>(a.x.data);
  p.x_scale = static_cast<const float*>(a.x_scale.data);
  p.w13_scale = static_cast<const float*>(a.w13_scale.data);
  p.w2_scale = static_cast<const float*>(a.w2_scale.data);
  p.out = static_cast<__nv_bfloat16*>(a.out.data);
  if (T == 0) return call;

  call.variant = variant_for(p.tokens);
  call.multiprocessors = multiprocessor_count(a.device);
  p.round = std::max(static_cast<int>(call.multiprocessors / IB), 1);
  load_kernels(call.variant, a.device, call.route, call.experts);
  Workspace& workspace = workspace_for(a.device, a.stream);
  call.workspace = &workspace;
  while (true) {
    const size_t scratch = carve_scratch(p, call.variant, workspace.scratch.data());
    const size_t zeroed = carve_zeroed(p, call.variant, workspace.zeroed.data());
    if (scratch <= workspace.scratch.bytes() && zeroed <= workspace.zeroed.bytes()) break;
    // Another thread's call may come in between and take a buffer to grow it. After the last check the lock is held until both kernels
    // are launched: what `p` points to stays the workspace, and what has to be zero is.
    workspace.scratch.reserve(scratch, false, a.stream);
    workspace.zeroed.reserve(zeroed, true, a.stream);
  }
  const uint32_t chunks = chunks_per_stage(call.variant);
  call.maps.w13 = weights_map(a.w13.data, L * 2 * I, H, chunks, kBoxRows, a.device);
  call.maps.w2 = weights_map(a.w2.data, L * H, I, chunks, kBoxRows, a.device);
  if (has_thin(call.variant)) {
    call.maps.thin_w13 = weights_map(a.w13.data, L * 2 * I, H, chunks, kThinBoxRows, a.device);
    call.maps.thin_w2 = weights_map(a.w2.data, L * H, I, chunks, kThinBoxRows, a.device);
  }
  call.tilings = tilings_for(is_inside(call.variant), p.round);
  return call;
}

void run(const Arguments& a) {
  const CurrentDevice current(a.device);
  Call call = prepare(a);
  Problem& p = call.problem;
  if (p.tokens == 0) return;
  void* arguments[] = {&p, &call.maps, const_cast<Tilings*>(call.tilings)};
  const bool routed = !is_inside(call.variant);
  if (routed) MOE_CUDA(launch(call.route, ceil_div(p.tokens, kRouteChunk), false, a.device, a.stream, arguments));
  try {
    MOE_CUDA(launch(call.experts, call.multiprocessors, routed, a.device, a.stream, arguments));
  } catch (...) {
    if (routed) call.workspace->zeroed.forget();  // route_chunks counts tokens there, and nobody clears them
    throw;
  }
}

}  // namespace hopper_v15
