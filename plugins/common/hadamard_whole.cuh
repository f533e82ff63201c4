// A whole token's transform whose first and last levels are taken in registers, for the many tokens of a prompt: a
// thread holds RADIX entries that lie apart, and in the end makes 16 codes that lie side by side.
//
// Entry i = block power + k apart + low with apart = power / RADIX. The first levels are those of k, the last those of
// the lowest four bits; the levels between, if any, and the base are taken in shared memory.
#pragma once

#include "hadamard.cuh"

namespace quamba {

constexpr int LAST_RADIX = 16;

// Entries a thread of the first levels; 0 where a transform has not the levels for both.
QUAMBA_HOST_DEVICE constexpr int first_radix(HadamardShape shape) {
    return shape.power >= 16 * LAST_RADIX ? 16 : shape.power == 8 * LAST_RADIX ? 8 : 0;
}

// Threads of a block: for every entry and for every column of a base matrix.
QUAMBA_HOST_DEVICE constexpr int whole_threads(int size) {
    const HadamardShape shape = hadamard_shape(size);
    const int groups = size / first_radix(shape), columns = shape.base == 1 ? 0 : shape.power;
    return ((groups > columns ? groups : columns) + 63) / 64 * 64;
}

template <int RADIX>
struct WholeToken {
    HadamardShape shape;
    int size, apart, shift;  // apart == 1 << shift

    QUAMBA_HOST_DEVICE explicit WholeToken(int size)
        : shape(hadamard_shape(size)), size(size), apart(shape.power / RADIX) {
        shift = 0;
        while (1 << shift < apart) shift++;
    }

    // Entries of a group are entry(group) + k apart.
    QUAMBA_HOST_DEVICE int groups() const { return size / RADIX; }
    QUAMBA_HOST_DEVICE int entry(int group) const { return (group >> shift) * shape.power + (group & (apart - 1)); }
};

#ifdef __CUDACC__

// entries[k] of a group; the last group's where there is no such.
template <int RADIX, class Entry>
__device__ __forceinline__ void load_group(Entry (&entries)[RADIX], const Entry *token, int group,
                                           const WholeToken<RADIX> &whole) {
    const Entry *first = token + whole.entry(min(group, whole.groups() - 1));
#pragma unroll
    for (int k = 0; k < RADIX; k++) entries[k] = first[k * whole.apart];
}

// 16 entries side by side through the last levels, as Output stores them.
template <class Output>
__device__ __forceinline__ auto last_outputs(const double *entries, const Output &scale) {
    double v[LAST_RADIX];
#pragma unroll
    for (int k = 0; k < LAST_RADIX; k++) v[k] = entries[k];
    butterflies(v);
    return side_by_side(v, scale);
}

// y = H token, y at a multiple of 16 bytes. held: of the group that is this thread's number; entries: shared memory of
// a token's.
template <int RADIX, class Output>
__device__ __forceinline__ void transform_whole(double (&held)[RADIX], double *entries, const WholeToken<RADIX> &whole,
                                                const Output &scale, typename Output::Stored *y) {
    butterflies(held);
    const int group = threadIdx.x;
    if (group < whole.groups()) {
        const int first = whole.entry(group);
#pragma unroll
        for (int k = 0; k < RADIX; k++) entries[place(first + k * whole.apart)] = held[k];
    }
    __syncthreads();
    sylvester_passes(entries, whole.size, whole.apart, 4);
    base_passes(entries, whole.shape.base, whole.shape.power);
    const int last = threadIdx.x;
    if (last < whole.size / LAST_RADIX) {
        using Outputs = decltype(last_outputs(entries, scale));
        reinterpret_cast<Outputs *>(y)[last] = last_outputs(entries + place(LAST_RADIX * last), scale);
    }
}

#endif  // __CUDACC__

}  // namespace quamba
