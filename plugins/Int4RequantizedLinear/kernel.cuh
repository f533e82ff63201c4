// y[t][m] = quantize(sum * x_scale + bias[m], out_scale[m]) as int8 codes. The sums come from
// common/int4_gemv.cuh.
#pragma once

#include "../common/int4_linear.cuh"

namespace quamba {

struct Int4RequantizedEnd {
    int8_t *y;  // (T, M)
    const float *bias, *out_scale;
    float x_scale;

    QUAMBA_HOST_DEVICE void write(int t, int m, int M, float sum) const {
        y[int64_t(t) * M + m] = quantized(scaled_total(sum, x_scale, bias[m]), out_scale[m]);
    }
};

}  // namespace quamba
