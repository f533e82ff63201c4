// The Walsh-Hadamard transform of rotation.py: B and C over d_state, blocks of `size` entries, a power of two.
// On codes every value is an integer below 2^16, exact in fp32 in whatever order.
#pragma once

#include "numeric.cuh"

namespace quamba {

// The size of a block: the largest power of two that divides N.
QUAMBA_HOST_DEVICE int rotation_size(int N) { return N & -N; }

// One stage: entry n, whose partner n ^ half is `other`.
QUAMBA_HOST_DEVICE float rotated_entry(float own, float other, bool upper) {
    return upper ? other - own : own + other;
}

// Where a warp finds the partners of a stage: lane l has the entries n = COUNT l + k, or l + 32 k where not WORDS.
template <bool WORDS, int COUNT>
struct RotationStage {
    bool in_lane;  // the partner of k is entry k ^ distance, else the same entry of lane l ^ distance
    int distance;

    static QUAMBA_HOST_DEVICE RotationStage of(int half) {
        if (WORDS) return half < COUNT ? RotationStage{true, half} : RotationStage{false, half / COUNT};
        return half < 32 ? RotationStage{false, half} : RotationStage{true, half / 32};
    }
};

#ifdef __CUDACC__

// The entries of a row in a warp, zeros behind the row.
template <bool WORDS, int COUNT>
__device__ __forceinline__ void rotate(float (&entries)[COUNT], int lane, int size) {
#pragma unroll
    for (int half = 1; half < 32 * COUNT; half *= 2) {
        if (half >= size) break;
        const auto stage = RotationStage<WORDS, COUNT>::of(half);
        float old[COUNT];
#pragma unroll
        for (int k = 0; k < COUNT; k++) old[k] = entries[k];
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            const float other = stage.in_lane ? old[(k ^ stage.distance) % COUNT]
                                              : __shfl_xor_sync(0xffffffffu, old[k], stage.distance);
            entries[k] = rotated_entry(old[k], other, (stage.in_lane ? k : lane) & stage.distance);
        }
    }
}

#endif  // __CUDACC__

}  // namespace quamba
