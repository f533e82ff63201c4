// A part of one token's transform: PARTS blocks that know nothing of each other each read the whole token and
// make one eighth of its outputs. For a step's single token, which would leave most of a GPU idle.
//
// Block `part` makes the outputs whose q has `part` in its top three bits: entry i = j power + q with
// q = c width + s and width = power / PARTS. A thread holds positions p = j width + s; it adds the eight entries
// c of a position with the signs of row `part` of Sylvester(PARTS), and what is left is a transform of one
// eighth of the entries.
#pragma once

#include "hadamard.cuh"
#include "warp.cuh"

namespace quamba {

constexpr int PARTS = 8;

struct TokenPart {
    HadamardShape shape;            // of the whole token
    int part, width, shift, count;  // width == 1 << shift; count: positions

    QUAMBA_HOST_DEVICE TokenPart(int size, int part) : shape(hadamard_shape(size)), part(part) {
        width = shape.power / PARTS;
        shift = 0;
        while (1 << shift < width) shift++;
        count = size / PARTS;
    }

    // The entries of position p are entry(p, 0) + c width.
    QUAMBA_HOST_DEVICE int entry(int p, int c) const {
        return (p >> shift) * shape.power + c * width + (p & (width - 1));
    }

    QUAMBA_HOST_DEVICE int output(int p) const { return entry(p, part); }

    // Levels that the lanes of a warp take among themselves, entries p and p ^ 1, 2, 4, 8, 16.
    QUAMBA_HOST_DEVICE int lane_levels() const { return shift < 5 ? shift : 5; }
};

// Positions a thread, of at most 2048.
QUAMBA_HOST_DEVICE constexpr int part_items(int64_t count) { return count > 1024 ? 2 : 1; }

// Threads of a block: whole warps for each quarter of a base matrix's rows, and enough to fill a gate's table.
QUAMBA_HOST_DEVICE constexpr int part_threads(int64_t count) {
    const int threads = int((count / part_items(count) + 127) / 128 * 128);
    return threads < 256 ? 256 : threads;
}

// The entries of one position times row `part` of Sylvester(PARTS).
QUAMBA_HOST_DEVICE double fold_position(double (&v)[PARTS], int part) {
#pragma unroll
    for (int half = PARTS / 2; half > 0; half /= 2) {
        const double sign = part & half ? -1.0 : 1.0;
#pragma unroll
        for (int c = 0; c < half; c++) v[c] = fma(sign, v[c + half], v[c]);
    }
    return v[0];
}

// One level of the transform for the entry `own`, the upper or the lower one of a pair.
QUAMBA_HOST_DEVICE double level_of_pair(double own, double other, bool upper) {
    return fma(upper ? -1.0 : 1.0, own, other);
}

#ifdef __CUDACC__

// The position that is this thread's `item`; the last one where there is no such.
__device__ __forceinline__ int position_of(int item, const TokenPart &part) {
    return min(threadIdx.x + item * blockDim.x, unsigned(part.count - 1));
}

// entries[c] of position p.
template <class Entry>
__device__ __forceinline__ void load_position(Entry (&entries)[PARTS], const Entry *token, int p,
                                              const TokenPart &part) {
    const Entry *position = token + part.entry(p, 0);
#pragma unroll
    for (int c = 0; c < PARTS; c++) entries[c] = position[c * part.width];
}

// y = H token for this block's outputs. folded: of this thread's positions; entries: shared memory of `count`
// entries.
template <int ITEMS, class Output>
__device__ __forceinline__ void transform_part(double (&folded)[ITEMS], double *entries, const TokenPart &part,
                                               const Output &scale, typename Output::Stored *y) {
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        double v = folded[item];
#pragma unroll
        for (int level = 0; level < 5; level++) {
            if (level >= part.shift) break;
            v = level_of_pair(v, __shfl_xor_sync(ALL_LANES, v, 1 << level), threadIdx.x >> level & 1);
        }
        const int p = threadIdx.x + item * blockDim.x;
        if (p < part.count) entries[place(p)] = v;
    }
    __syncthreads();
    sylvester_passes(entries, part.count, part.width, part.lane_levels());
    looped_base_passes(entries, part.shape.base, part.width);
    for (int p = threadIdx.x; p < part.count; p += blockDim.x) y[part.output(p)] = scale.output(entries[place(p)]);
}

#endif  // __CUDACC__

}  // namespace quamba
