// y[t][m] = fp16(sum * weight_scale[m] + bias[m]). The sums come from common/half_gemv.cuh and half_gemm.cuh.
#pragma once

#include "../common/half_linear.cuh"

#ifdef __CUDACC__

namespace quamba {

struct HalfInt8HalfEnd {
    using Output = __half;
    static constexpr int DEPTH = 6, REGISTERS = 56;  // see gemv.cuh
    static constexpr bool NEXT_MAY_BEGIN_EARLY = true;
    struct Row {
        float scale, bias;
    };
    struct Loaded {};  // nothing but the sum is needed; see HalfInt8Linear

    __half *y;  // (T, M)
    const float *weight_scale, *bias;

    QUAMBA_HOST_DEVICE Row row(int m) const { return {weight_scale[m], bias[m]}; }

    QUAMBA_HOST_DEVICE void prefetch(int, int) const {}

    QUAMBA_HOST_DEVICE Loaded load(int, int) const { return {}; }

    __device__ __forceinline__ __half value(float sum, const Row &row, Loaded) const { return saturated_half(sum * row.scale + row.bias); }
};

}  // namespace quamba

#endif  // __CUDACC__
