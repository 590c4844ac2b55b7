// Entry point: checks the arguments, lays out the workspace and launches. No synchronisation, one stream.
//
//   T <= 128: experts, which routes as well
//   larger T: route_chunks -> experts
//
// With larger T experts is launched while route_chunks runs and waits for it on the device (programmatic dependent launch).
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/extra/cuda/device_guard.h>
#include <tvm/ffi/function.h>

#include <mutex>

#include "launch.cuh"
#include "route_chunks.cuh"
#include "workspace.cuh"

namespace hopper_v8 {

using tvm::ffi::TensorView;

constexpr int kSmallTokens = 16;
constexpr int kMediumTokens = 1200;  // 38 per expert on average: most experts still have at most 64

inline Variant variant_for(int tokens) {
  if (tokens <= kSmallTokens) return Variant::kCols16;
  if (tokens <= kRoutedInside) return Variant::kCols64;
  return tokens <= kMediumTokens ? Variant::kCols64Routed : Variant::kCols128;
}

struct Call {
  Problem problem;
  Launch launch;
  Variant variant;
  CUtensorMap w13, w2;
};

void check_tensor(const TensorView& t, const char* name, int ndim, int bits, DLDevice device) {
  TVM_FFI_CHECK(t.ndim() == ndim, ValueError) << name << ": expected " << ndim << " dimensions, got " << t.ndim();
  TVM_FFI_CHECK(t.dtype().bits == bits && t.dtype().lanes == 1, TypeError)
      << name << ": expected a " << bits << "-bit type, got " << static_cast<int>(t.dtype().bits) << " bits";
  TVM_FFI_CHECK(t.device().device_type == device.device_type && t.device().device_id == device.device_id, ValueError)
      << name << ": not on the device of hidden_states";
  int64_t stride = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    TVM_FFI_CHECK(t.size(i) == 1 || t.stride(i) == stride, ValueError) << name << ": must be contiguous";
    stride *= t.size(i);
  }
  TVM_FFI_CHECK(reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0, ValueError) << name << ": must be 16-byte aligned";
}

void check_shape(const TensorView& t, const char* name, std::initializer_list<int64_t> shape) {
  int i = 0;
  for (const int64_t n : shape) {
    TVM_FFI_CHECK(t.size(i) == n, ValueError) << name << ": dimension " << i << " is " << t.size(i) << ", expected " << n;
    ++i;
  }
}

void launch_route(const Call& call) {
  if (is_inside(call.variant)) return;
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(kRouteThreads);
  config.gridDim = dim3(ceil_div(call.problem.tokens, kRouteChunk));
  config.stream = call.launch.stream;
  MOE_CUDA(cudaLaunchKernelEx(&config, route_chunks, call.problem));
}

void launch_experts(const Call& call) {
  switch (call.variant) {
    case Variant::kCols16:
      MOE_CUDA(launch_experts_16(call.launch, call.problem, call.w13, call.w2));
      break;
    case Variant::kCols64:
      MOE_CUDA(launch_experts_64(call.launch, call.problem, call.w13, call.w2));
      break;
    case Variant::kCols64Routed:
      MOE_CUDA(launch_experts_64_routed(call.launch, call.problem, call.w13, call.w2));
      break;
    case Variant::kCols128:
      MOE_CUDA(launch_experts_128(call.launch, call.problem, call.w13, call.w2));
      break;
  }
}

int multiprocessor_count(int device) {
  static int known_device = -1;
  static int count = 0;
  if (device != known_device) {
    known_device = -1;
    MOE_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    known_device = device;
  }
  return count;
}

std::mutex& state_mutex() {
  static auto* m = new std::mutex;
  return *m;
}

Call prepare(TensorView logits, TensorView bias, TensorView x, TensorView x_scale, TensorView w13, TensorView w13_scale,
             TensorView w2, TensorView w2_scale, int64_t expert_offset, double scaling, TensorView out) {
  const DLDevice device = x.device();
  TVM_FFI_CHECK(device.device_type == kDLCUDA, ValueError) << "hidden_states: must be on a CUDA device";
  check_tensor(logits, "routing_logits", 2, 32, device);
  check_tensor(bias, "routing_bias", 1, 16, device);
  check_tensor(x, "hidden_states", 2, 8, device);
  check_tensor(x_scale, "hidden_states_scale", 2, 32, device);
  check_tensor(w13, "gemm1_weights", 3, 8, device);
  check_tensor(w13_scale, "gemm1_weights_scale", 3, 32, device);
  check_tensor(w2, "gemm2_weights", 3, 8, device);
  check_tensor(w2_scale, "gemm2_weights_scale", 3, 32, device);
  check_tensor(out, "output", 2, 16, device);
  const int64_t T = x.size(0), H = x.size(1), L = w2.size(0), I = w2.size(2);
  // A pipeline stage holds 256 of K up to 128 tokens.
  TVM_FFI_CHECK(H > 0 && H % (2 * kScaleBlock) == 0, ValueError) << "hidden size " << H << ": must be a multiple of 256";
  TVM_FFI_CHECK(I > 0 && I % (2 * kScaleBlock) == 0, ValueError)
      << "intermediate size " << I << ": must be a multiple of 256";
  TVM_FFI_CHECK(L > 0 && L <= kMaxLocalExperts, ValueError) << "local experts: " << L << ", at most " << kMaxLocalExperts;
  // Row offsets and list positions are 32-bit.
  TVM_FFI_CHECK(T * H < (int64_t(1) << 31) && T * kTopK * I < (int64_t(1) << 32) && L * T < (int64_t(1) << 31), ValueError)
      << "too many tokens: " << T;
  const int64_t HB = H / kScaleBlock, IB = I / kScaleBlock;
  check_shape(logits, "routing_logits", {T, kNumExperts});
  check_shape(bias, "routing_bias", {kNumExperts});
  check_shape(x_scale, "hidden_states_scale", {HB, T});
  check_shape(w13, "gemm1_weights", {L, 2 * I, H});
  check_shape(w13_scale, "gemm1_weights_scale", {L, 2 * IB, HB});
  check_shape(w2, "gemm2_weights", {L, H, I});
  check_shape(w2_scale, "gemm2_weights_scale", {L, HB, IB});
  check_shape(out, "output", {T, H});

  Call call{};
  Problem& p = call.problem;
  p.tokens = static_cast<int>(T);
  p.experts = static_cast<int>(L);
  p.hidden = static_cast<int>(H);
  p.inter = static_cast<int>(I);
  p.expert_offset = static_cast<int>(expert_offset);
  p.scaling = static_cast<float>(scaling);
  p.logits = static_cast<const float*>(logits.data_ptr());
  p.bias = static_cast<const __nv_bfloat16*>(bias.data_ptr());
  p.x = static_cast<const uint8_t*>(x.data_ptr());
  p.x_scale = static_cast<const float*>(x_scale.data_ptr());
  p.w13_scale = static_cast<const float*>(w13_scale.data_ptr());
  p.w2_scale = static_cast<const float*>(w2_scale.data_ptr());
  p.out = static_cast<__nv_bfloat16*>(out.data_ptr());
  if (T == 0) return call;

  call.variant = variant_for(p.tokens);
  call.launch.device = device.device_id;
  call.launch.stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(device.device_type, device.device_id));
  call.launch.multiprocessors = multiprocessor_count(device.device_id);
  Workspace& workspace = workspace_for(device.device_id, call.launch.stream);
  const cudaStream_t stream = call.launch.stream;
  const size_t scratch = carve_scratch(p, call.variant, workspace.scratch.data());
  if (scratch > workspace.scratch.bytes()) carve_scratch(p, call.variant, workspace.scratch.reserve(scratch, false, stream));
  const size_t zeroed = carve_zeroed(p, call.variant, workspace.zeroed.data());
  if (zeroed > workspace.zeroed.bytes()) carve_zeroed(p, call.variant, workspace.zeroed.reserve(zeroed, true, stream));
  const uint32_t chunks = chunks_per_stage(call.variant);
  call.w13 = weights_map(w13.data_ptr(), L * 2 * I, H, chunks);
  call.w2 = weights_map(w2.data_ptr(), L * H, I, chunks);
  return call;
}

void run(TensorView routing_logits, TensorView routing_bias, TensorView hidden_states, TensorView hidden_states_scale,
         TensorView gemm1_weights, TensorView gemm1_weights_scale, TensorView gemm2_weights, TensorView gemm2_weights_scale,
         int64_t local_expert_offset, double routed_scaling_factor, TensorView output) {
  const std::lock_guard<std::mutex> lock(state_mutex());
  const tvm::ffi::CUDADeviceGuard guard(hidden_states.device().device_id);
  const Call call = prepare(routing_logits, routing_bias, hidden_states, hidden_states_scale, gemm1_weights,
                            gemm1_weights_scale, gemm2_weights, gemm2_weights_scale, local_expert_offset,
                            routed_scaling_factor, output);
  if (call.problem.tokens == 0) return;
  launch_route(call);
  launch_experts(call);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);

}  // namespace hopper_v8
