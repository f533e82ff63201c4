// y[t][m] = residual[t][m] + (sum * weight_scale[m] + bias[m]), in fp32. The sums come from common/half_gemv.cuh and
// half_gemm.cuh.
#pragma once

#include "../common/half_linear.cuh"

namespace quamba {

struct HalfInt8ResidualEnd {
    using Output = float;
    static constexpr int DEPTH = 6, REGISTERS = 56;  // see gemv.cuh
    static constexpr bool NEXT_MAY_BEGIN_EARLY = true;
    struct Row {
        float scale, bias;
    };
    using Loaded = float;

    float *y;  // (T, M); may be the residual itself: an element is read and written by one thread
    const float *weight_scale, *bias, *residual;
    int64_t residual_stride;  // elements from one token's row to the next

    QUAMBA_HOST_DEVICE Row row(int m) const { return {weight_scale[m], bias[m]}; }

    QUAMBA_HOST_DEVICE void prefetch(int, int) const {}

    QUAMBA_HOST_DEVICE float load(int t, int m) const { return residual[t * residual_stride + m]; }

    QUAMBA_HOST_DEVICE float value(float sum, const Row &row, float residual_value) const {
        return residual_value + (sum * row.scale + row.bias);
    }
};

}  // namespace quamba
