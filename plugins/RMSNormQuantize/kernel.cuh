// y = x / sqrt(mean(x^2) + epsilon), quantized or as another op writes it: one block a token, the sum of squares in fp64.
#pragma once

#include "../common/block.cuh"
#include "../common/numeric.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int NORM_THREADS = 512, NORM_ITEMS = 8;  // channels of a token a thread keeps in registers

// What becomes of the entries of a token with that root.
struct NormedCode {
    using Stored = int8_t;
    float root, scale, reciprocal;

    __device__ __forceinline__ NormedCode(const QuambaRMSNormQuantize &op, float root)
        : root(root), scale(op.out_scale), reciprocal(quotient_reciprocal(root, op.out_scale)) {}

    __device__ __forceinline__ int8_t operator()(float v) const {
        return quantized_quotient(v, root, scale, reciprocal);
    }
};

// Normed: NormedCode, or the same of another op.
template <class Normed, class Op>
__global__ void __launch_bounds__(NORM_THREADS) rms_norm(Op op) {
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
    const Normed normed(op, root_mean_square(total, static_cast<double>(D), op.epsilon));
    auto *y = static_cast<typename Normed::Stored *>(op.y) + token * D;
#pragma unroll
    for (int i = 0; i < NORM_ITEMS; i++) {
        const int d = threadIdx.x + NORM_THREADS * i;
        if (d < D) y[d] = normed(kept[i]);
    }
    for (int d = threadIdx.x + NORM_THREADS * NORM_ITEMS; d < D; d += NORM_THREADS) {
        y[d] = normed(x[d]);
    }
    let_next_kernel_begin();
}

}  // namespace quamba
