// The outputs of a Hadamard transform as fp16 numbers; code_output.cuh writes codes.
#pragma once

#include "hadamard_whole.cuh"
#include "half.cuh"

#ifdef __CUDACC__

namespace quamba {

struct HalfOutput {
    using Stored = __half;
    double unit;  // hadamard_unit of the shape

    template <class Op>
    explicit HalfOutput(const Op &op) : unit(hadamard_unit(hadamard_shape(int(op.size.E)))) {}

    template <class Op>
    static __device__ __forceinline__ __half written(const Op &, float v) {
        return saturated_half(v);
    }

    __device__ __forceinline__ __half output(double sum) const { return saturated_half(static_cast<float>(sum * unit)); }
};

// Side by side.
struct alignas(16) SixteenHalves {
    __half at[LAST_RADIX];
};

__device__ __forceinline__ SixteenHalves side_by_side(const double (&v)[LAST_RADIX], const HalfOutput &scale) {
    SixteenHalves halves;
#pragma unroll
    for (int k = 0; k < LAST_RADIX; k++) halves.at[k] = scale.output(v[k]);
    return halves;
}

}  // namespace quamba

#endif  // __CUDACC__
