// y = quantize(x / sqrt(mean(x^2) + epsilon), out_scale): one block a token, the sum of squares in fp64.
#pragma once

#include "../common/block.cuh"
#include "../common/numeric.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int NORM_THREADS = 512, NORM_ITEMS = 8;  // channels of a token a thread keeps in registers

__global__ void __launch_bounds__(NORM_THREADS) rms_norm_quantize(QuambaRMSNormQuantize op) {
    const int D = int(op.size.D);
    const int64_t token = blockIdx.x;
    const float *x = op.x + token * op.x_stride;
    float kept[NORM_ITEMS];
    double sum = 0.0;
    wait_for_inputs();
#pragma unroll
    for (int i = 0; i < NORM_ITEMS; i++) {
        const int d = threadIdx.x + NORM_THREADS * i;
        kept[i] = d < D ? x[d] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < NORM_ITEMS; i++) sum += static_cast<double>(kept[i]) * kept[i];
    for (int d = threadIdx.x + NORM_THREADS * NORM_ITEMS; d < D; d += NORM_THREADS) {
        sum += static_cast<double>(x[d]) * x[d];
    }
    const double total = block_sum<NORM_THREADS>(sum);
    const float root = root_mean_square(total, static_cast<double>(D), op.epsilon);
    const float reciprocal = quotient_reciprocal(root, op.out_scale);
#pragma unroll
    for (int i = 0; i < NORM_ITEMS; i++) {
        const int d = threadIdx.x + NORM_THREADS * i;
        if (d < D) op.y[token * D + d] = quantized_quotient(kept[i], root, op.out_scale, reciprocal);
    }
    for (int d = threadIdx.x + NORM_THREADS * NORM_ITEMS; d < D; d += NORM_THREADS) {
        op.y[token * D + d] = quantized_quotient(x[d], root, op.out_scale, reciprocal);
    }
    let_next_kernel_begin();
}

}  // namespace quamba
