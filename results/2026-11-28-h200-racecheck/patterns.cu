// One value a thread handed from one warp to another through shared memory, ordered in five ways.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

__device__ __forceinline__ uint32_t at(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void wait(uint32_t bar, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
  }
}

template <int kHow>
__global__ void hand_over(const int* in, int* out) {
  __shared__ int box[32];
  __shared__ uint64_t full;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 32;" ::"r"(at(&full)) : "memory");
  }
  __syncthreads();
  if (warp == 0) {
    if (kHow == 4) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at(box + lane)), "l"(in + lane) : "memory");
      asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at(&full)) : "memory");
    } else {
      box[lane] = in[lane];
      if (kHow == 1) asm volatile("bar.sync 1, 64;" ::: "memory");
      if (kHow == 2) asm volatile("bar.arrive 1, 64;" ::: "memory");
      if (kHow == 3) asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(at(&full)) : "memory");
    }
  } else {
    if (kHow == 1 || kHow == 2) asm volatile("bar.sync 1, 64;" ::: "memory");
    if (kHow >= 3) wait(at(&full), 0);
    out[lane] = box[lane ^ 1];
  }
}


// A ring of two places, eight rounds: producer warp -> consumer warp. kAll: every lane tells that a place is free, else one for its warp,
// after __syncwarp. kOne: one lane writes; else all, by cp.async.
template <bool kOne, bool kAll>
__global__ void ring(const int* in, int* out) {
  __shared__ int box[2][32];
  __shared__ uint64_t full[2], empty[2];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at(&full[i])), "r"(kOne ? 1 : 32) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at(&empty[i])), "r"(kAll ? 32 : 1) : "memory");
    }
  }
  __syncthreads();
  int sum = 0;
  for (int round = 0; round < 8; ++round) {
    const int place = round % 2;
    const uint32_t parity = round / 2 % 2;
    if (warp == 0) {
      if (kOne) {
        if (lane == 0) {
          wait(at(&empty[place]), parity ^ 1);
          box[place][0] = in[round];
          asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(at(&full[place])) : "memory");
        }
      } else {
        wait(at(&empty[place]), parity ^ 1);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at(&box[place][lane])), "l"(in + lane) : "memory");
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at(&full[place])) : "memory");
      }
    } else {
      wait(at(&full[place]), parity);
      sum += *static_cast<volatile int*>(&box[place][kOne ? 0 : lane ^ 1]);
      __syncwarp();
      if (kAll || lane == 0) asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(at(&empty[place])) : "memory");
    }
  }
  out[threadIdx.x % 32] = sum;
}

// The last lane of a warp writes, and its warp arrives at a named barrier for which the others wait; kSync: it waits as well.
template <bool kSync>
__global__ void last_lane(const int* in, int* out) {
  __shared__ int box[33];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0) {
    const int v = in[lane];
    box[lane] = v;
    if (lane == 31) box[32] = in[0] / (v + 1);
    __syncwarp();
    if (kSync) asm volatile("bar.sync 1, 64;" ::: "memory");
    else asm volatile("bar.arrive 1, 64;" ::: "memory");
  } else {
    asm volatile("bar.sync 1, 64;" ::: "memory");
    out[lane] = box[lane] + box[lane + 1];
  }
}


// Masks by all, then a plan by one warp from them, which the others read. kArrive: the others arrive at the first barrier and go on to wait
// at the second, and the one that plans arrives there; else all wait at both.
template <bool kArrive>
__global__ void plan(const int* in, int* out) {
  __shared__ int mask[4], box[33];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) mask[warp] = in[warp];
  __syncwarp();
  if (warp == 0) {
    asm volatile("bar.sync 8, 128;" ::: "memory");
    box[lane] = mask[lane % 4] + lane;
    __syncwarp();
    if (kArrive) asm volatile("bar.arrive 5, 128;" ::: "memory");
    else asm volatile("bar.sync 5, 128;" ::: "memory");
  } else {
    if (kArrive) asm volatile("bar.arrive 8, 128;" ::: "memory");
    else asm volatile("bar.sync 8, 128;" ::: "memory");
    asm volatile("bar.sync 5, 128;" ::: "memory");
    out[lane] = box[lane ^ 1];
  }
}

int main(int argc, char** argv) {
  int *in, *out;
  cudaMalloc(&in, 128);
  cudaMalloc(&out, 128);
  cudaMemset(in, 1, 128);
  switch (argc > 1 ? atoi(argv[1]) : 0) {
    case 0: hand_over<0><<<4, 64>>>(in, out); break;
    case 1: hand_over<1><<<4, 64>>>(in, out); break;
    case 2: hand_over<2><<<4, 64>>>(in, out); break;
    case 3: hand_over<3><<<4, 64>>>(in, out); break;
    case 5: ring<true, false><<<4, 64>>>(in, out); break;
    case 6: ring<true, true><<<4, 64>>>(in, out); break;
    case 7: ring<false, false><<<4, 64>>>(in, out); break;
    case 8: ring<false, true><<<4, 64>>>(in, out); break;
    case 9: last_lane<false><<<4, 64>>>(in, out); break;
    case 10: last_lane<true><<<4, 64>>>(in, out); break;
    case 11: plan<true><<<4, 128>>>(in, out); break;
    case 12: plan<false><<<4, 128>>>(in, out); break;
    case 4: hand_over<4><<<4, 64>>>(in, out); break;
  }
  return cudaDeviceSynchronize();
}
