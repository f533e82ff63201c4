// The likeliest token of every sequence: a maximum of 64-bit ranks, each a logit with its index behind it.
#pragma once

#include "numeric.cuh"

#ifdef __CUDACC__
#include "async_copy.cuh"
#include "batches.cuh"
#include "cluster.cuh"
#include "overlap.cuh"
#include "warp.cuh"
#endif

namespace quamba {

using Rank = unsigned long long;

// Larger logits rank higher, of equal ones the lower index does; -0 equals 0, and NaN is above every number.
QUAMBA_HOST_DEVICE Rank rank_of(float logit, uint32_t index) {
    const float positive_zero = logit + 0.0f;
    uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof(bits));
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (logit != logit) bits = 0xffffffffu;
    return static_cast<Rank>(bits) << 32 | (0xffffffffu - index);
}

// The index, or -1 - index where the logit is NaN or infinite: no likeliest token then.
QUAMBA_HOST_DEVICE int64_t token_of(Rank rank) {
    const int64_t index = 0xffffffffu - static_cast<uint32_t>(rank);
    const uint32_t bits = static_cast<uint32_t>(rank >> 32);  // the infinities are 0x007fffff and 0xff800000
    return bits > 0x007fffffu && bits < 0xff800000u ? index : -1 - index;
}

#ifdef __CUDACC__

constexpr int ARGMAX_THREADS = 1024;

// The highest rank among the threads of a block, in thread 0 of it.
__device__ __forceinline__ Rank block_highest(Rank rank) {
    __shared__ Rank highest[ARGMAX_THREADS / 32];
    const auto warp_highest = [](Rank r) {
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2)
            r = max(r, __shfl_xor_sync(ALL_LANES, r, distance));
        return r;
    };
    rank = warp_highest(rank);
    if (threadIdx.x % 32 == 0) highest[threadIdx.x / 32] = rank;
    __syncthreads();
    return threadIdx.x < 32 ? warp_highest(highest[threadIdx.x]) : 0;
}

// The blocks along x are a cluster and share one sequence, blockIdx.y says which. logits (batch, vocabulary)
// fp32, rows `stride` apart; aligned: every row begins on 16 bytes. tokens (batch).
__global__ void __launch_bounds__(ARGMAX_THREADS)
    argmax(const float *logits, int64_t vocabulary, int64_t stride, int64_t *tokens, bool aligned) {
    __shared__ Rank highest_of_block;
    const float *row = logits + blockIdx.y * stride;
    const int count = int(vocabulary), fours = aligned ? count / 4 : 0;
    const int thread = blockIdx.x * ARGMAX_THREADS + threadIdx.x, threads = gridDim.x * ARGMAX_THREADS;
    Rank highest = 0;
    const auto take = [&](float logit, int index) {
        highest = max(highest, rank_of(logit, static_cast<uint32_t>(index)));
    };
    wait_for_inputs();
    in_batches<4>(
        fours, thread, threads, [&](int i) { return reinterpret_cast<const float4 *>(row)[i]; },
        [&](int i, float4 v) {
            take(v.x, 4 * i), take(v.y, 4 * i + 1), take(v.z, 4 * i + 2), take(v.w, 4 * i + 3);
        });
    for (int i = 4 * fours + thread; i < count; i += threads) take(row[i], i);
    highest = block_highest(highest);
    if (gridDim.x > 1) {
        if (threadIdx.x == 0) highest_of_block = highest;
        synchronize_cluster();
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            for (int block = 1; block < int(gridDim.x); block++)
                highest = max(highest, load_wide_from_block(shared_address(&highest_of_block), block));
        }
        synchronize_cluster();
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) tokens[blockIdx.y] = token_of(highest);
}

#endif  // __CUDACC__

}  // namespace quamba
