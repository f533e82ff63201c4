// y[t][m] = residual[t][m] + (sum * x_scale + bias[m]), in fp32. The sums come from common/int4_gemv.cuh.
#pragma once

#include "../common/int4_linear.cuh"

namespace quamba {

struct Int4ResidualEnd {
    float *y;  // (T, M); may be the residual itself: an element is read and written by one thread
    const float *bias, *residual;
    int64_t residual_stride;  // elements from one token's row to the next
    float x_scale;

    QUAMBA_HOST_DEVICE void write(int t, int m, int M, float sum) const {
        y[int64_t(t) * M + m] = residual[t * residual_stride + m] + scaled_total(sum, x_scale, bias[m]);
    }
};

}  // namespace quamba
