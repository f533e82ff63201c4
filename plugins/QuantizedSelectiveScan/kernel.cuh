// Mamba-1's scan as the recurrence of op.py, for any length and N: the state stays in registers. One token has
// step.cuh, prompts of N up to 16 prompt.cuh.
//
// LANES lanes of a warp own one channel e, lane l the entries n = l + LANES k. Tokens come in tiles: B, C,
// step, step x, D x and silu(z) of the tile are found once a block. exp(step A) is needed for every entry:
// those of a few tokens are found together, and their tree sums are finished together.
#pragma once

#include "../common/decay.cuh"
#include "../common/overlap.cuh"
#include "../common/state.cuh"
#include "../common/warp.cuh"
#include "contracts.h"

namespace quamba {

constexpr int SELECTIVE_THREADS = 128, SELECTIVE_TILE = 16;

// Tokens whose decays a thread holds at once: of more than eight entries, registers spill.
QUAMBA_HOST_DEVICE constexpr int selective_batch(int n_lane) { return 8 / n_lane; }

// How an op holds its tensors: Element of those that come with the tokens, Constant of the others, and what they stand for.
template <class Op>
struct SelectiveInputs;

template <>
struct SelectiveInputs<QuambaQuantizedSelectiveScan> {
    using Op = QuambaQuantizedSelectiveScan;
    using Element = int8_t;
    using Constant = int8_t;

    static __device__ __forceinline__ float x(const Op &op, int8_t code) { return dequantized(code, op.x_scale); }
    static __device__ __forceinline__ float dt(const Op &op, int8_t code) { return dequantized(code, op.dt_scale); }
    static __device__ __forceinline__ float B(const Op &op, int8_t code) { return dequantized(code, op.B_scale); }
    static __device__ __forceinline__ float C(const Op &op, int8_t code) { return dequantized(code, op.C_scale); }
    static __device__ __forceinline__ float z(const Op &op, int8_t code) { return dequantized(code, op.z_scale); }
    static __device__ __forceinline__ float D(const Op &op, int8_t code) { return dequantized(code, op.D_scale); }
    static __device__ __forceinline__ float A_log(const Op &op, int8_t code) {
        return dequantized(code, op.A_log_scale);
    }
    static __device__ __forceinline__ float dt_bias(const Op &op, int8_t code) {
        return dequantized(code, op.dt_bias_scale);
    }
    static __device__ __forceinline__ float state_scale(const Op &op) { return op.state_scale; }

    // silu of what z stands for, one of 256 numbers, each of which some thread sets.
    struct Gate {
        static constexpr int SIZE = 256;
        float of[SIZE];

        __device__ __forceinline__ void set(const Op &op, int code) {
            of[code] = silu_soon(dequantized(static_cast<int8_t>(code), op.z_scale));
        }
        __device__ __forceinline__ float operator()(int8_t code) const { return of[static_cast<uint8_t>(code)]; }
    };
};

template <class Op>
using SelectiveElement = typename SelectiveInputs<Op>::Element;

// A tensor of elements as it is in the op's struct.
template <class Op>
__device__ __forceinline__ const SelectiveElement<Op> *elements(const void *tensor) {
    return static_cast<const SelectiveElement<Op> *>(tensor);
}

template <int LANES, int N_LANE>
struct SelectiveTile {
    static constexpr int WIDTH = LANES * N_LANE, CHANNELS = SELECTIVE_THREADS / LANES;

    float B[SELECTIVE_TILE][WIDTH], C[SELECTIVE_TILE][WIDTH];  // zero from N on
    float step[SELECTIVE_TILE][CHANNELS], inputs[SELECTIVE_TILE][CHANNELS];
    float skip[SELECTIVE_TILE][CHANNELS], gate[SELECTIVE_TILE][CHANNELS];

    // `count` tokens from row `row` on, channels e_0 ..
    template <class Op>
    __device__ void stage(const Op &op, int64_t row, int64_t e_0, int count) {
        using Inputs = SelectiveInputs<Op>;
        const int N = int(op.size.N);
        for (int i = threadIdx.x; i < count * WIDTH; i += SELECTIVE_THREADS) {
            const int t = i / WIDTH, n = i % WIDTH;
            B[t][n] = n < N ? Inputs::B(op, elements<Op>(op.B)[(row + t) * op.B_stride + n]) : 0.0f;
            C[t][n] = n < N ? Inputs::C(op, elements<Op>(op.C)[(row + t) * op.C_stride + n]) : 0.0f;
        }
        for (int i = threadIdx.x; i < count * CHANNELS; i += SELECTIVE_THREADS) {
            const int t = i / CHANNELS, channel = i % CHANNELS;
            const int64_t e = min(e_0 + channel, op.size.E - 1);
            const float bias = Inputs::dt_bias(op, op.dt_bias[e]);
            const float x = Inputs::x(op, elements<Op>(op.x)[(row + t) * op.x_stride + e]);
            const float now = softplus(Inputs::dt(op, elements<Op>(op.dt)[(row + t) * op.dt_stride + e]) + bias);
            step[t][channel] = now;
            inputs[t][channel] = now * x;
            skip[t][channel] = Inputs::D(op, op.D[e]) * x;
            gate[t][channel] = silu(Inputs::z(op, elements<Op>(op.z)[(row + t) * op.z_stride + e]));
        }
    }
};

// BATCH tokens from token t of the tile on; lane l ends up with y of token l / (LANES / BATCH).
template <class Stored, int BATCH, int LANES, int N_LANE>
__device__ __forceinline__ float advance(float (&h)[N_LANE], const float (&A)[N_LANE], float (&scale)[N_LANE],
                                         const SelectiveTile<LANES, N_LANE> &tile, const LaneDecay &decayed,
                                         int t, int lane, int channel) {
    float decay[BATCH][N_LANE], partial[BATCH];
    decayed(decay, [&](int i, int k) { return tile.step[t + i][channel] * A[k]; });
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
        const float input = tile.inputs[t + i][channel];
        float read[N_LANE];
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = lane + LANES * k;
            const float next = next_state(h[k], decay[i][k], input, tile.B[t + i][n]);
            read[k] = next * tile.C[t + i][n];
            h[k] = next;
        }
        round_states<Stored, LANES>(h, scale);
        partial[i] = in_lane_sum(read);
    }
    const int token = t + lane / (LANES / BATCH);
    return (lane_sums<BATCH, LANES / 2>(partial) + tile.skip[token][channel]) * tile.gate[token][channel];
}

template <class Stored, int LANES, int N_LANE, class Op>
__global__ void __launch_bounds__(SELECTIVE_THREADS) selective_scan(Op op, RowScales rows) {
    using Inputs = SelectiveInputs<Op>;
    using Tile = SelectiveTile<LANES, N_LANE>;
    constexpr int BATCH = selective_batch(N_LANE);
    __shared__ Tile tile;
    const int lane = threadIdx.x % LANES, channel = threadIdx.x / LANES, N = int(op.size.N);
    const int64_t b = blockIdx.y, e_0 = int64_t(blockIdx.x) * Tile::CHANNELS;
    const int64_t e = min(e_0 + channel, op.size.E - 1), at = (b * op.size.E + e) * N;
    const bool owned = e_0 + channel < op.size.E;

    const LaneDecay decayed;
    constexpr bool ROW_SCALES = HAS_ROW_SCALES<Stored>;
    float A[N_LANE], h[N_LANE], scale[N_LANE];
    const Stored *stored = static_cast<const Stored *>(op.state);
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const int n = lane + LANES * k;
        A[k] = n < N ? -exp_rounded(Inputs::A_log(op, op.A_log[e * N + n])) : 0.0f;
    }
    wait_for_inputs();
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const int n = lane + LANES * k;
        scale[k] = ROW_SCALES ? rows.in[at / N] : Inputs::state_scale(op);
        h[k] = n < N ? State<Stored>::load(stored[at + n], scale[k]) : 0.0f;
    }
    for (int64_t first = 0; first < op.size.L; first += SELECTIVE_TILE) {
        const int count = int(min(int64_t(SELECTIVE_TILE), op.size.L - first));
        const int64_t row = b * op.size.L + first;
        if (first > 0) __syncthreads();
        tile.stage(op, row, e_0, count);
        __syncthreads();
        int t = 0;
        for (; t + BATCH <= count; t += BATCH) {
            const float y = advance<Stored, BATCH>(h, A, scale, tile, decayed, t, lane, channel);
            const int64_t token = row + t + lane / (LANES / BATCH);
            if (lane % (LANES / BATCH) == 0 && owned) op.y[token * op.size.E + e] = y;
        }
        for (; t < count; t++) {
            const float y = advance<Stored, 1>(h, A, scale, tile, decayed, t, lane, channel);
            if (lane == 0 && owned) op.y[(row + t) * op.size.E + e] = y;
        }
    }
    let_next_kernel_begin();
    if (!owned) return;
    Stored *out = static_cast<Stored *>(op.state_out);
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const int n = lane + LANES * k;
        if (n < N) out[at + n] = State<Stored>::store(h[k], scale[k]);
    }
    if (ROW_SCALES && lane == 0) rows.out[at / N] = scale[0];
}

}  // namespace quamba
