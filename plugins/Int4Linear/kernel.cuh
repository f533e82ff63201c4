// y[t][m] = residual[t][m] + (sum * x_scale + bias[m]), in fp32. The sums come from common/int4_gemv.cuh and
// int4_gemm.cuh.
#pragma once

#include "../common/int4_linear.cuh"

namespace quamba {

struct Int4ResidualEnd {
    using Output = float;
    static constexpr int DEPTH = 6, REGISTERS = 56;     // see gemv.cuh
    static constexpr bool NEXT_MAY_BEGIN_EARLY = true;  // out_proj: the next in_proj's weight may flow
    struct Row {
        float bias;
    };
    using Loaded = float;

    float *y;  // (T, M); may be the residual itself: an element is read and written by one thread
    const float *bias, *residual;
    int64_t residual_stride;  // elements from one token's row to the next
    float x_scale;

    QUAMBA_HOST_DEVICE Row row(int m) const { return {bias[m]}; }

    QUAMBA_HOST_DEVICE void prefetch(int, int) const {}

    QUAMBA_HOST_DEVICE float load(int t, int m) const { return residual[t * residual_stride + m]; }

    QUAMBA_HOST_DEVICE float value(float sum, const Row &row, float residual_value) const {
        return residual_value + scaled_total(sum, x_scale, row.bias);
    }
};

}  // namespace quamba
