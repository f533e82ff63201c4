// Sums over the lanes of a warp in the order of the contracts' tree: halving, entry n takes entry n + half.
#pragma once

#include "numeric.cuh"

namespace quamba {

// Entries n = lane + 32 k of one sum; the tree's levels above the lanes. COUNT is a power of two.
template <int COUNT>
QUAMBA_HOST_DEVICE float in_lane_sum(float (&entries)[COUNT]) {
#pragma unroll
    for (int half = COUNT / 2; half > 0; half /= 2) {
#pragma unroll
        for (int k = 0; k < half; k++) entries[k] = entries[k] + entries[k + half];
    }
    return entries[0];
}

#ifdef __CUDACC__

constexpr unsigned ALL_LANES = 0xffffffffu;

// COUNT sums over 32 lanes at once, one entry a lane each: lane l returns sum l / (32 / COUNT).
//
// At each level a lane keeps one half of the sums and gives the other half to its partner, so COUNT sums cost
// COUNT - 1 exchanges and log2(32 / COUNT) more instead of 5 COUNT. Lane l pairs with l + 16, then l + 8, ...
template <int COUNT, int DISTANCE = 16>
__device__ __forceinline__ float lane_sums(float (&entries)[COUNT]) {
    if constexpr (COUNT > 1) {
        const bool upper = threadIdx.x & DISTANCE;
        float kept[COUNT / 2];
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            const float given = upper ? entries[i] : entries[i + COUNT / 2];
            kept[i] = upper ? entries[i + COUNT / 2] : entries[i];
            kept[i] = __fadd_rn(kept[i], __shfl_xor_sync(ALL_LANES, given, DISTANCE));
        }
        return lane_sums<COUNT / 2, DISTANCE / 2>(kept);
    } else {
        float sum = entries[0];
#pragma unroll
        for (int distance = DISTANCE; distance > 0; distance /= 2) {
            sum = __fadd_rn(sum, __shfl_xor_sync(ALL_LANES, sum, distance));
        }
        return sum;
    }
}

__device__ __forceinline__ double wide_lane_sum(double value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

#endif  // __CUDACC__

}  // namespace quamba
