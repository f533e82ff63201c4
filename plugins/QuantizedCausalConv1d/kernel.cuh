// y = quantize(silu(conv * (x_scale * weight_scale) + bias), out_scale).
//
// A thread takes a run of tokens of one channel, or of four side by side. No code needs more than integers and an fp32
// estimate of silu, but for those few near a half step (common/numeric.cuh). HalfCausalConv1d has runs of one channel, too.
#pragma once

#include "../common/numeric.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int CONV_THREADS = 128;  // of a block
constexpr int CONV_RUN = 16;       // tokens a thread with one channel, in a long call
constexpr int WORD_RUN = 4;        // tokens a thread with four; not below W - 1, so that one run alone reads the state

// Input t of one channel; the state holds the W - 1 before the first.
template <class Stored>
struct ConvHistory {
    const Stored *x, *state;
    int64_t x_stride;
    int W;

    __device__ __forceinline__ Stored operator()(int64_t t) const {
        return t < 0 ? state[W - 1 + t] : x[t * x_stride];
    }
};

// One channel of codes: Held is what its inputs, taps and sums are in registers, and NOTHING what sums begin with.
struct CodeChannel {
    using Stored = int8_t;
    using Held = int;
    static constexpr Held NOTHING = 0;
    float scale, bias, out_scale;

    __device__ __forceinline__ CodeChannel(const QuambaQuantizedCausalConv1d &op, int64_t c)
        : scale(op.x_scale[c] * op.weight_scale[c]), bias(op.bias[c]), out_scale(op.out_scale[c]) {}

    static __device__ __forceinline__ Held held(Stored code) { return code; }
    static __device__ __forceinline__ Stored stored(Held code) { return static_cast<int8_t>(code); }

    __device__ __forceinline__ Stored output(Held total) const {
        const float value = static_cast<float>(total) * scale + bias;
        return quantized_silu(value, out_scale);
    }
};

// Entry w of the state after the `length` <= RUN tokens behind the W - 1 first inputs.
template <int W, int RUN, class Held>
__device__ __forceinline__ Held history_after(const Held (&inputs)[W - 1 + RUN], int64_t length, int w) {
    Held input = inputs[w];
#pragma unroll
    for (int i = 1; i <= RUN; i++) input = i <= length ? inputs[i + w] : input;
    return input;
}

// RUN: tokens a thread; all their inputs are loaded before the first is used. Channel: CodeChannel, or another op's.
template <class Channel, int W, int RUN, class Op>
__global__ void __launch_bounds__(CONV_THREADS) causal_conv(Op op) {
    using Stored = typename Channel::Stored;
    using Held = typename Channel::Held;
    const int64_t C = op.size.C, L = op.size.L, b = blockIdx.z;
    const int64_t c = int64_t(blockIdx.x) * CONV_THREADS + threadIdx.x;
    if (c >= C) return;
    const int64_t first = int64_t(blockIdx.y) * RUN;
    const ConvHistory<Stored> history = {static_cast<const Stored *>(op.x) + b * L * op.x_stride + c,
                                         static_cast<const Stored *>(op.state) + (b * C + c) * (W - 1),
                                         op.x_stride, W};
    const Channel channel(op, c);
    Held weight[W], inputs[W - 1 + RUN];
#pragma unroll
    for (int w = 0; w < W; w++) weight[w] = op.weight[c * W + w];
    wait_for_inputs();
#pragma unroll
    for (int i = 0; i < W - 1 + RUN; i++) {
        const int64_t t = first - (W - 1) + i;
        inputs[i] = t < L ? Channel::held(history(t)) : Held(0);
    }
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        if (first + i >= L) break;
        Held total = Channel::NOTHING;
#pragma unroll
        for (int w = 0; w < W; w++) total += weight[w] * inputs[i + w];
        static_cast<Stored *>(op.y)[(b * L + first + i) * C + c] = channel.output(total);
    }
    if (blockIdx.y == 0) {  // no other block reads the state
#pragma unroll
        for (int w = 0; w < W - 1; w++) {
            const bool one_run = RUN == 1 || gridDim.y == 1;
            static_cast<Stored *>(op.state_out)[(b * C + c) * (W - 1) + w] =
                one_run ? Channel::stored(history_after<W, RUN>(inputs, L, w)) : history(L - (W - 1) + w);
        }
    }
    let_next_kernel_begin();
}

// Four channels side by side.
struct ConvChannels {
    float scale[4], bias[4], reciprocal[4], margin[4];
    uint32_t taps[4];  // the last byte meets the newest input

    __device__ __forceinline__ float value(int k, uint32_t window) const {
        // the sum as the last bits of a float
        const int shifted = __dp4a(int(window), int(taps[k]), __float_as_int(FIXED_ROUND));
        return (__int_as_float(shifted) - FIXED_ROUND) * scale[k] + bias[k];
    }
};

template <int W>
__device__ __forceinline__ ConvChannels conv_channels(const QuambaQuantizedCausalConv1d &op, int64_t c) {
    const auto of_channels = [c](const float *values) { return *reinterpret_cast<const float4 *>(values + c); };
    const float4 x = of_channels(op.x_scale), w = of_channels(op.weight_scale), b = of_channels(op.bias);
    const float4 out = of_channels(op.out_scale);
    ConvChannels channels = {{x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w}, {b.x, b.y, b.z, b.w}};
    const float out_scale[4] = {out.x, out.y, out.z, out.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        channels.reciprocal[k] = plain_reciprocal(out_scale[k]);
        channels.margin[k] = silu_margin(out_scale[k]);
        channels.taps[k] = 0;
#pragma unroll
        for (int tap = 0; tap < W; tap++) {
            channels.taps[k] |= uint32_t(uint8_t(op.weight[(c + k) * W + tap])) << 8 * (4 - W + tap);
        }
    }
    return channels;
}

// The last four inputs of each channel, the newest in the last byte, after those of `word`.
__device__ __forceinline__ void take_inputs(uint32_t (&window)[4], uint32_t word) {
#pragma unroll
    for (int k = 0; k < 4; k++) window[k] = __byte_perm(window[k], word, 0x4321 + (k << 12));
}

// Code of one channel and token with fp64, where no estimate will do.
template <int W>
__device__ __forceinline__ int8_t exact_code(const QuambaQuantizedCausalConv1d &op, const ConvHistory<int8_t> &history,
                                             int64_t t, int64_t c) {
    int total = 0;
    for (int w = 0; w < W; w++) total += op.weight[c * W + w] * history(t - (W - 1) + w);
    const float value = static_cast<float>(total) * (op.x_scale[c] * op.weight_scale[c]) + op.bias[c];
    return quantized(silu(value), op.out_scale[c]);
}

// The same for four channels a thread, words of codes at multiples of four bytes, in a call longer than WORD_RUN.
template <int W>
__global__ void __launch_bounds__(CONV_THREADS) causal_conv_words(QuambaQuantizedCausalConv1d op) {
    const int64_t C = op.size.C, L = op.size.L, b = blockIdx.z;
    const int64_t c = 4 * (int64_t(blockIdx.x) * CONV_THREADS + threadIdx.x);
    if (c >= C) return;
    const int64_t first = int64_t(blockIdx.y) * WORD_RUN;
    const int8_t *x = op.x + b * L * op.x_stride + c;
    int8_t *y = op.y + b * L * C + c;
    const ConvChannels channels = conv_channels<W>(op, c);
    const auto history = [&](int k) {
        return ConvHistory<int8_t>{x + k, op.state + (b * C + c + k) * (W - 1), op.x_stride, W};
    };
    const auto inputs = [&](int64_t t) { return *reinterpret_cast<const uint32_t *>(x + t * op.x_stride); };
    wait_for_inputs();
    let_next_kernel_begin();
    uint32_t words[WORD_RUN], window[4] = {};
#pragma unroll
    for (int i = 0; i < WORD_RUN; i++) words[i] = first + i < L ? inputs(first + i) : 0;
#pragma unroll
    for (int i = 1 - W; i < 0; i++) {
        uint32_t word = 0;
        if (first > 0) {
            word = inputs(first + i);
        } else {
#pragma unroll
            for (int k = 0; k < 4; k++) word |= uint32_t(uint8_t(history(k)(i))) << 8 * k;
        }
        take_inputs(window, word);
    }
    uint32_t unsure = 0;  // a bit a code
#pragma unroll
    for (int i = 0; i < WORD_RUN; i++) {
        if (first + i >= L) break;
        take_inputs(window, words[i]);
        uint32_t bits[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float value = channels.value(k, window[k]);
            const EstimatedCode code = silu_code(value, channels.reciprocal[k], channels.margin[k]);
            bits[k] = code.bits;
            if (!code.sure) unsure |= 1u << (4 * i + k);
        }
        *reinterpret_cast<uint32_t *>(y + (first + i) * C) = last_bytes(bits[0], bits[1], bits[2], bits[3]);
    }
#pragma unroll 1
    for (; unsure; unsure &= unsure - 1) {
        const int at = __ffs(int(unsure)) - 1, k = at % 4;
        y[(first + at / 4) * C + k] = exact_code<W>(op, history(k), first + at / 4, c + k);
    }
    if (first > 0) return;
#pragma unroll
    for (int k = 0; k < 4; k++) {  // no other block reads the state
#pragma unroll
        for (int w = 0; w < W - 1; w++) {
            op.state_out[(b * C + c + k) * (W - 1) + w] = history(k)(L - (W - 1) + w);
        }
    }
}

}  // namespace quamba
