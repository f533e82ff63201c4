// How an op whose scan takes these kernels holds its tensors.
#pragma once

#include "../common/numeric.cuh"
#include "contracts.h"

#ifdef __CUDACC__

namespace quamba {

// What an element of x, dt, B and C is, and what one stands for.
template <class Op>
struct SSDInputs;

template <>
struct SSDInputs<QuambaQuantizedSSDScan> {
    using Op = QuambaQuantizedSSDScan;
    using Element = int8_t;
    static constexpr bool CODES = true;

    static __device__ __forceinline__ float dt(const Op &op, int8_t code) { return dequantized(code, op.dt_scale); }
    static __device__ __forceinline__ float B_scale(const Op &op, int g) { return op.B_scale[g]; }
    static __device__ __forceinline__ float C_scale(const Op &op, int g) { return op.C_scale[g]; }
    // channel: of (H, P)
    static __device__ __forceinline__ float x_scale(const Op &op, int channel) {
        return op.x_scale[op.scale_index[channel]];
    }
};

template <class Op>
using SSDElement = typename SSDInputs<Op>::Element;

// A tensor of elements as it is in the op's struct.
template <class Op>
__device__ __forceinline__ const SSDElement<Op> *elements(const void *tensor) {
    return static_cast<const SSDElement<Op> *>(tensor);
}

}  // namespace quamba

#endif  // __CUDACC__
