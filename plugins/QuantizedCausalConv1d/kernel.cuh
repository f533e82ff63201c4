// y = quantize(silu(conv * (x_scale * weight_scale) + bias), out_scale): one thread a channel and run of tokens.
#pragma once

#include "../common/numeric.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int CONV_THREADS = 128, CONV_RUN = 16;  // channels a block, tokens a thread

// Code of input t of one channel; the state holds the W - 1 before the first.
struct ConvHistory {
    const int8_t *x, *state;
    int64_t x_stride;
    int W;

    __device__ __forceinline__ int8_t operator()(int64_t t) const {
        return t < 0 ? state[W - 1 + t] : x[t * x_stride];
    }
};

template <int W>
__global__ void __launch_bounds__(CONV_THREADS) causal_conv(QuambaQuantizedCausalConv1d op) {
    const int64_t C = op.size.C, L = op.size.L, b = blockIdx.z;
    const int64_t c = int64_t(blockIdx.x) * CONV_THREADS + threadIdx.x;
    if (c >= C) return;
    const int64_t first = int64_t(blockIdx.y) * CONV_RUN, last = min(first + CONV_RUN, L);
    const ConvHistory history = {op.x + b * L * op.x_stride + c, op.state + (b * C + c) * (W - 1), op.x_stride, W};
    const float scale = op.x_scale[c] * op.weight_scale[c], bias = op.bias[c], out_scale = op.out_scale[c];
    int weight[W], window[W];
#pragma unroll
    for (int w = 0; w < W; w++) weight[w] = op.weight[c * W + w];
    wait_for_inputs();
    let_next_kernel_begin();
#pragma unroll
    for (int w = 0; w < W - 1; w++) window[w] = history(first - (W - 1) + w);
    for (int64_t t = first; t < last; t++) {
        window[W - 1] = history(t);
        int total = 0;
#pragma unroll
        for (int w = 0; w < W; w++) total += weight[w] * window[w];
        const float value = static_cast<float>(total) * scale + bias;
        op.y[(b * L + t) * C + c] = quantized_silu(value, out_scale);
#pragma unroll
        for (int w = 0; w < W - 1; w++) window[w] = window[w + 1];
    }
    if (gridDim.y == 1) {  // no other block reads the state that this one overwrites
#pragma unroll
        for (int w = 0; w < W - 1; w++) op.state_out[(b * C + c) * (W - 1) + w] = static_cast<int8_t>(window[w]);
    }
}

// The last W - 1 inputs, after every run of a long call has read the state. L >= W - 1.
template <int W>
__global__ void __launch_bounds__(CONV_THREADS) causal_conv_state(QuambaQuantizedCausalConv1d op) {
    const int64_t C = op.size.C, L = op.size.L, b = blockIdx.z;
    const int64_t c = int64_t(blockIdx.x) * CONV_THREADS + threadIdx.x;
    if (c >= C) return;
    wait_for_inputs();
    let_next_kernel_begin();
#pragma unroll
    for (int w = 0; w < W - 1; w++) {
        op.state_out[(b * C + c) * (W - 1) + w] = op.x[(b * L + L - (W - 1) + w) * op.x_stride + c];
    }
}

}  // namespace quamba
