// y[t][m] = quantize(total * (x_scale * weight_scale[m]) + bias[m], out_scale[m]), written as int8 codes.
// The integer sums come from common/gemv.cuh and common/int8_gemm.cuh; this is what they end with.
#pragma once

#include "../common/int8_linear.cuh"

namespace quamba {

struct RequantizedEnd {
    using Output = int8_t;
    static constexpr int DEPTH = 6, REGISTERS = 56;     // see gemv.cuh
    static constexpr bool NEXT_MAY_BEGIN_EARLY = true;  // x_proj, dt_proj: small kernels behind
    struct Row {
        float scale, bias, out_scale;
    };
    struct Loaded {};  // nothing but the product is needed; see QuantizedLinear

    int8_t *y;  // (T, M)
    const float *weight_scale, *bias, *out_scale;
    float x_scale;

    // The constants of one row of the weight; they never change, so a kernel may read them before its inputs.
    QUAMBA_HOST_DEVICE Row row(int m) const {
        return {product_scale(x_scale, weight_scale[m]), bias[m], out_scale[m]};
    }

    QUAMBA_HOST_DEVICE void prefetch(int, int) const {}

    QUAMBA_HOST_DEVICE Loaded load(int, int) const { return {}; }

    QUAMBA_HOST_DEVICE int8_t value(int32_t total, const Row &row, Loaded) const {
        return quantized(scaled_sum(total, row.scale, row.bias), row.out_scale);
    }
};

}  // namespace quamba
