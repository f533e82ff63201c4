// Sums over the threads of a block, and a barrier for all of them.
#pragma once

#include "warp.cuh"

namespace quamba {

// The sum of every thread's value, returned to all. THREADS is a multiple of 32.
template <int THREADS>
__device__ __forceinline__ double block_sum(double value) {
    __shared__ double partial[THREADS / 32];
    value = wide_lane_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    double sums[4] = {};
#pragma unroll
    for (int warp = 0; warp < THREADS / 32; warp++) sums[warp % 4] += partial[warp];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The same in a block of any multiple of 32 threads, in the time of one barrier and two sums over lanes.
__device__ __forceinline__ double block_sum(double value) {
    __shared__ double partial[32];
    value = wide_lane_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    return wide_lane_sum(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : 0.0);
}

// All THREADS of the block, each role at a place of its own. __syncthreads() and bar.sync are aligned: they want
// one place for all, in a function of its own too (synccheck).
template <int THREADS>
__device__ __forceinline__ void block_barrier() {
    asm volatile("barrier.cta.sync 1, %0;" : : "n"(THREADS) : "memory");
}

}  // namespace quamba
