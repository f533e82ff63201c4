// y = quantize(silu(conv * (x_scale * weight_scale) + bias), out_scale).
//
// One thread a channel and run of tokens. No code needs more than integers and an fp32 estimate of silu, but
// for those few near a half step (common/numeric.cuh).
#pragma once

#include "../common/numeric.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int CONV_THREADS = 128, CONV_RUN = 16;  // channels a block, tokens a thread in a long call

// Code of input t of one channel; the state holds the W - 1 before the first.
struct ConvHistory {
    const int8_t *x, *state;
    int64_t x_stride;
    int W;

    __device__ __forceinline__ int8_t operator()(int64_t t) const {
        return t < 0 ? state[W - 1 + t] : x[t * x_stride];
    }
};

// Code w of the state after the `length` <= RUN tokens behind the W - 1 first codes.
template <int W, int RUN>
__device__ __forceinline__ int8_t history_after(const int (&codes)[W - 1 + RUN], int64_t length, int w) {
    int code = codes[w];
#pragma unroll
    for (int i = 1; i <= RUN; i++) code = i <= length ? codes[i + w] : code;
    return static_cast<int8_t>(code);
}

// RUN: tokens a thread; all their codes are loaded before the first is used.
template <int W, int RUN>
__global__ void __launch_bounds__(CONV_THREADS) causal_conv(QuambaQuantizedCausalConv1d op) {
    const int64_t C = op.size.C, L = op.size.L, b = blockIdx.z;
    const int64_t c = int64_t(blockIdx.x) * CONV_THREADS + threadIdx.x;
    if (c >= C) return;
    const int64_t first = int64_t(blockIdx.y) * RUN;
    const ConvHistory history = {op.x + b * L * op.x_stride + c, op.state + (b * C + c) * (W - 1),
                                 op.x_stride, W};
    const float scale = op.x_scale[c] * op.weight_scale[c], bias = op.bias[c], out_scale = op.out_scale[c];
    int weight[W], codes[W - 1 + RUN];
#pragma unroll
    for (int w = 0; w < W; w++) weight[w] = op.weight[c * W + w];
    wait_for_inputs();
#pragma unroll
    for (int i = 0; i < W - 1 + RUN; i++) {
        const int64_t t = first - (W - 1) + i;
        codes[i] = t < L ? history(t) : 0;
    }
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        if (first + i >= L) break;
        int total = 0;
#pragma unroll
        for (int w = 0; w < W; w++) total += weight[w] * codes[i + w];
        const float value = static_cast<float>(total) * scale + bias;
        op.y[(b * L + first + i) * C + c] = quantized_silu(value, out_scale);
    }
    if (gridDim.y == 1) {  // no other block reads the state that this one overwrites
#pragma unroll
        for (int w = 0; w < W - 1; w++)
            op.state_out[(b * C + c) * (W - 1) + w] = history_after<W, RUN>(codes, L, w);
    }
    let_next_kernel_begin();
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
