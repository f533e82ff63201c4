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

template <int LANES, int N_LANE>
struct SelectiveTile {
    static constexpr int WIDTH = LANES * N_LANE, CHANNELS = SELECTIVE_THREADS / LANES;

    float B[SELECTIVE_TILE][WIDTH], C[SELECTIVE_TILE][WIDTH];  // zero from N on
    float step[SELECTIVE_TILE][CHANNELS], inputs[SELECTIVE_TILE][CHANNELS];
    float skip[SELECTIVE_TILE][CHANNELS], gate[SELECTIVE_TILE][CHANNELS];

    // `count` tokens from row `row` on, channels e_0 ..
    __device__ void stage(const QuambaQuantizedSelectiveScan &op, int64_t row, int64_t e_0, int count) {
        const int N = int(op.size.N);
        for (int i = threadIdx.x; i < count * WIDTH; i += SELECTIVE_THREADS) {
            const int t = i / WIDTH, n = i % WIDTH;
            B[t][n] = n < N ? dequantized(op.B[(row + t) * op.B_stride + n], op.B_scale) : 0.0f;
            C[t][n] = n < N ? dequantized(op.C[(row + t) * op.C_stride + n], op.C_scale) : 0.0f;
        }
        for (int i = threadIdx.x; i < count * CHANNELS; i += SELECTIVE_THREADS) {
            const int t = i / CHANNELS, channel = i % CHANNELS;
            const int64_t e = min(e_0 + channel, op.size.E - 1);
            const float bias = dequantized(op.dt_bias[e], op.dt_bias_scale);
            const float x = dequantized(op.x[(row + t) * op.x_stride + e], op.x_scale);
            const float now = softplus(dequantized(op.dt[(row + t) * op.dt_stride + e], op.dt_scale) + bias);
            step[t][channel] = now;
            inputs[t][channel] = now * x;
            skip[t][channel] = dequantized(op.D[e], op.D_scale) * x;
            gate[t][channel] = silu(dequantized(op.z[(row + t) * op.z_stride + e], op.z_scale));
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

template <class Stored, int LANES, int N_LANE>
__global__ void __launch_bounds__(SELECTIVE_THREADS) selective_scan(QuambaQuantizedSelectiveScan op,
                                                                    RowScales rows) {
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
        A[k] = n < N ? -exp_rounded(dequantized(op.A_log[e * N + n], op.A_log_scale)) : 0.0f;
    }
    wait_for_inputs();
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const int n = lane + LANES * k;
        scale[k] = ROW_SCALES ? rows.in[at / N] : op.state_scale;
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
