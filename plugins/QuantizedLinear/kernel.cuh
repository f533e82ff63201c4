// y[t][m] = residual[t][m] + (total * (x_scale * weight_scale[m]) + bias[m]), in fp32.
// The integer sums come from common/gemv.cuh and common/int8_gemm.cuh; this is what they end with.
#pragma once

#include "../common/int8_linear.cuh"

namespace quamba {

struct ResidualEnd {
    using Output = float;
    static constexpr int DEPTH = 6, REGISTERS = 56;     // see gemv.cuh
    static constexpr bool NEXT_MAY_BEGIN_EARLY = true;  // out_proj: the next in_proj's weight may flow
    struct Row {
        float scale, bias;
    };
    using Loaded = float;

    float *y;  // (T, M); may be the residual itself: an element is read and written by one thread
    const float *weight_scale, *bias, *residual;
    int64_t residual_stride;  // elements from one token's row to the next
    float x_scale;

    // The constants of one row of the weight; they never change, so a kernel may read them before its inputs.
    QUAMBA_HOST_DEVICE Row row(int m) const { return {product_scale(x_scale, weight_scale[m]), bias[m]}; }

    QUAMBA_HOST_DEVICE void prefetch(int, int) const {}

    QUAMBA_HOST_DEVICE float load(int t, int m) const { return residual[t * residual_stride + m]; }

    QUAMBA_HOST_DEVICE float value(int32_t total, const Row &row, float residual_value) const {
#ifdef __CUDA_ARCH__
        return __fadd_rn(residual_value, scaled_sum(total, row.scale, row.bias));
#else
        return residual_value + scaled_sum(total, row.scale, row.bias);
#endif
    }
};

}  // namespace quamba
