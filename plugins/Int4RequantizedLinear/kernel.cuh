// y[t][m] = quantize(sum * x_scale + bias[m], out_scale[m]) as int8 codes. The sums come from
// common/int4_gemv.cuh and int4_gemm.cuh.
#pragma once

#include "../common/int4_linear.cuh"

namespace quamba {

struct Int4RequantizedEnd {
    using Output = int8_t;
    static constexpr int DEPTH = 6, REGISTERS = 56;  // see gemv.cuh
    static constexpr bool NEXT_MAY_BEGIN_EARLY = true;
    struct Row {
        float bias, out_scale;
    };
    struct Loaded {};  // nothing but the sum is needed; see Int4Linear

    int8_t *y;  // (T, M)
    const float *bias, *out_scale;
    float x_scale;

    QUAMBA_HOST_DEVICE Row row(int m) const { return {bias[m], out_scale[m]}; }

    QUAMBA_HOST_DEVICE void prefetch(int, int) const {}

    QUAMBA_HOST_DEVICE Loaded load(int, int) const { return {}; }

    QUAMBA_HOST_DEVICE int8_t value(float sum, const Row &row, Loaded) const {
        return quantized(scaled_total(sum, x_scale, row.bias), row.out_scale);
    }
};

}  // namespace quamba
