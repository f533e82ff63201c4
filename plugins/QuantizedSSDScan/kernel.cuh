// Mamba-2's scan as the recurrence of op.py, one kernel for any length: the state stays in registers.
//
// A warp owns ROWS channels p of one head; lane l holds entries n = l + 32 k of each row's state. Tokens come
// in tiles: B and C of the tile are dequantized once a block into shared memory, one thread a token finds the
// step and its decay in fp64. The tree sum over n is finished for BATCH tokens at once (common/warp.cuh).
#pragma once

#include "../common/state.cuh"
#include "../common/warp.cuh"
#include "contracts.h"

namespace quamba {

constexpr int SSD_WARPS = 4, SSD_TILE = 32, SSD_BATCH = 8;

// N_LANE: entries of a row's state a lane holds, a power of two; 32 N_LANE >= N.
template <class Stored, int N_LANE, int ROWS>
struct SSDScan {
    static constexpr int WIDTH = 32 * N_LANE, BLOCK_ROWS = SSD_WARPS * ROWS;

    struct Tile {
        float B[SSD_TILE][WIDTH], C[SSD_TILE][WIDTH];  // zero from N on
        float inputs[SSD_TILE][BLOCK_ROWS];            // step x
        float skip[SSD_TILE][BLOCK_ROWS];              // D x
        float step[SSD_TILE], decay[SSD_TILE];
    };

    // Fills the tile with `count` tokens from token `first` of sequence b on; rows p_0 .. of head h.
    static __device__ void stage(Tile &tile, const QuambaQuantizedSSDScan &op, int64_t b, int h, int p_0,
                                 int64_t first, int count) {
        const int G = int(op.size.G), N = int(op.size.N), P = int(op.size.P), g = h / (int(op.size.H) / G);
        const int64_t row = b * op.size.L + first;
        const float B_scale = op.B_scale[g], C_scale = op.C_scale[g];
        for (int i = threadIdx.x; i < count * WIDTH; i += blockDim.x) {
            const int t = i / WIDTH, n = i % WIDTH;
            const bool inside = n < N;
            tile.B[t][n] = inside ? dequantized(op.B[(row + t) * op.B_stride + g * N + n], B_scale) : 0.0f;
            tile.C[t][n] = inside ? dequantized(op.C[(row + t) * op.C_stride + g * N + n], C_scale) : 0.0f;
        }
        for (int t = threadIdx.x; t < count; t += blockDim.x) {
            const float sum = dequantized(op.dt[(row + t) * op.dt_stride + h], op.dt_scale) + op.dt_bias[h];
            tile.step[t] = fminf(fmaxf(softplus(sum), op.dt_min), op.dt_max);
            tile.decay[t] = exp_rounded(tile.step[t] * -exp_rounded(op.A_log[h]));
        }
        __syncthreads();
        for (int i = threadIdx.x; i < count * BLOCK_ROWS; i += blockDim.x) {
            const int t = i / BLOCK_ROWS, p = min(p_0 + i % BLOCK_ROWS, P - 1);
            const float scale = op.x_scale[op.scale_index[h * P + p]];
            const float x = dequantized(op.x[(row + t) * op.x_stride + h * P + p], scale);
            tile.inputs[t][i % BLOCK_ROWS] = tile.step[t] * x;
            tile.skip[t][i % BLOCK_ROWS] = op.D[h] * x;
        }
        __syncthreads();
    }

    // BATCH tokens from tile row t on: advances h and returns this lane's y of (row, token) lane / LANES_A_SUM.
    template <int BATCH>
    static __device__ __forceinline__ float advance(float (&h)[ROWS][N_LANE], const float (&scale)[ROWS][N_LANE],
                                                    const Tile &tile, int t, int warp) {
        const int lane = threadIdx.x % 32;
        float partial[BATCH * ROWS];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const float decay = tile.decay[t + i];
            float B[N_LANE], C[N_LANE];
#pragma unroll
            for (int k = 0; k < N_LANE; k++) {
                B[k] = tile.B[t + i][lane + 32 * k];
                C[k] = tile.C[t + i][lane + 32 * k];
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float input = tile.inputs[t + i][warp * ROWS + r];
                float read[N_LANE];
#pragma unroll
                for (int k = 0; k < N_LANE; k++) {
                    const float next = __fadd_rn(__fmul_rn(h[r][k], decay), __fmul_rn(input, B[k]));
                    read[k] = __fmul_rn(next, C[k]);
                    h[r][k] = State<Stored>::rounded(next, scale[r][k]);
                }
                partial[i * ROWS + r] = in_lane_sum(read);
            }
        }
        return lane_sums(partial);
    }

    // Writes what advance returned: entry e stands for token t + e / ROWS and row e % ROWS.
    template <int BATCH>
    static __device__ __forceinline__ void write(const QuambaQuantizedSSDScan &op, const Tile &tile, float sum,
                                                 int64_t row, int t, int h, int p_0, int warp) {
        constexpr int LANES = 32 / (BATCH * ROWS);
        const int lane = threadIdx.x % 32, entry = lane / LANES, token = t + entry / ROWS, r = entry % ROWS;
        const int p = p_0 + warp * ROWS + r;
        if (lane % LANES == 0 && p < op.size.P) {
            op.y[((row + token) * op.size.H + h) * op.size.P + p] = sum + tile.skip[token][warp * ROWS + r];
        }
    }
};

template <class Stored, int N_LANE, int ROWS>
__global__ void __launch_bounds__(32 * SSD_WARPS) ssd_scan(QuambaQuantizedSSDScan op) {
    using Scan = SSDScan<Stored, N_LANE, ROWS>;
    extern __shared__ float shared[];
    typename Scan::Tile &tile = *reinterpret_cast<typename Scan::Tile *>(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int P = int(op.size.P), N = int(op.size.N), h = blockIdx.y, p_0 = blockIdx.x * Scan::BLOCK_ROWS;
    const int64_t b = blockIdx.z;

    float state[ROWS][N_LANE], scale[ROWS][N_LANE];
    const Stored *stored = static_cast<const Stored *>(op.state);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int p = min(p_0 + warp * ROWS + r, P - 1);
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = lane + 32 * k;
            scale[r][k] = sizeof(Stored) == 1 && n < N ? op.state_scale[op.scale_index[h * P + p] * N + n] : 1.0f;
            const int64_t at = ((b * op.size.H + h) * P + p) * N + n;
            state[r][k] = n < N ? State<Stored>::load(stored[at], scale[r][k]) : 0.0f;
        }
    }
    for (int64_t first = 0; first < op.size.L; first += SSD_TILE) {
        const int count = int(min(int64_t(SSD_TILE), op.size.L - first));
        const int64_t row = b * op.size.L + first;
        if (first > 0) __syncthreads();
        Scan::stage(tile, op, b, h, p_0, first, count);
        int t = 0;
        for (; t + SSD_BATCH <= count; t += SSD_BATCH) {
            const float sum = Scan::template advance<SSD_BATCH>(state, scale, tile, t, warp);
            Scan::template write<SSD_BATCH>(op, tile, sum, row, t, h, p_0, warp);
        }
        for (; t < count; t++) {
            const float sum = Scan::template advance<1>(state, scale, tile, t, warp);
            Scan::template write<1>(op, tile, sum, row, t, h, p_0, warp);
        }
    }
    Stored *out = static_cast<Stored *>(op.state_out);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int p = p_0 + warp * ROWS + r;
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = lane + 32 * k;
            if (p < P && n < N) {
                out[((b * op.size.H + h) * P + p) * N + n] = State<Stored>::store(state[r][k], scale[r][k]);
            }
        }
    }
}

}  // namespace quamba
