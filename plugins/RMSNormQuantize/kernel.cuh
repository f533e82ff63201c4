// y = quantize(x / sqrt(mean(x^2) + epsilon), out_scale): one block a token, the sum of squares in fp64.
#pragma once

#include "../common/block.cuh"
#include "../common/numeric.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int NORM_THREADS = 256;

__global__ void __launch_bounds__(NORM_THREADS) rms_norm_quantize(QuambaRMSNormQuantize op) {
    const int64_t D = op.size.D, token = blockIdx.x;
    const float *x = op.x + token * op.x_stride;
    wait_for_inputs();
    double sum = 0.0;
    for (int64_t d = threadIdx.x; d < D; d += NORM_THREADS) sum += static_cast<double>(x[d]) * x[d];
    let_next_kernel_begin();
    const double total = block_sum<NORM_THREADS>(sum);
    const float root = root_mean_square(total, static_cast<double>(D), op.epsilon);
    for (int64_t d = threadIdx.x; d < D; d += NORM_THREADS) op.y[token * D + d] = quantized(x[d] / root, op.out_scale);
}

}  // namespace quamba
