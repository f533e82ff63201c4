// Mamba-2's scan as the recurrence of op.py, one kernel for any length: the state stays in registers.
//
// A warp owns ROWS channels p of one head; lane l holds entries n = l + 32 k of each row's state. Tokens come
// in tiles: while one is worked on, the codes of the next are on their way into registers. B and C are
// dequantized once a block, the tree sum over n is finished for SSD_BATCH tokens at once (common/warp.cuh).
#pragma once

#include "../common/overlap.cuh"
#include "../common/state.cuh"
#include "../common/warp.cuh"
#include "contracts.h"

namespace quamba {

constexpr int SSD_WARPS = 4, SSD_THREADS = 32 * SSD_WARPS, SSD_TILE = 32, SSD_BATCH = 8;

// One token of one head: the step and what it leaves of the state.
struct SSDStep {
    float step, decay;
};

__device__ __forceinline__ SSDStep ssd_step(const QuambaQuantizedSSDScan &op, int64_t row, int h) {
    const float sum = dequantized(op.dt[row * op.dt_stride + h], op.dt_scale) + op.dt_bias[h];
    const float step = fminf(fmaxf(softplus(sum), op.dt_min), op.dt_max);
    return {step, exp_rounded(step * -exp_rounded(op.A_log[h]))};
}

// steps (B L, H): all steps of a long call, once instead of once a block.
__global__ void ssd_steps(QuambaQuantizedSSDScan op, SSDStep *steps) {
    wait_for_inputs();
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, H = op.size.H;
    if (i < op.size.B * op.size.L * H) steps[i] = ssd_step(op, i / H, int(i % H));
    let_next_kernel_begin();
}

// The entries n = lane + 32 k that one lane holds, for vector loads.
template <int COUNT>
struct alignas(COUNT < 4 ? 4 * COUNT : 16) Entries {
    float at[COUNT];
};

// N_LANE: entries of a row's state a lane holds, a power of two; 32 N_LANE >= N.
template <class Stored, int N_LANE, int ROWS>
struct SSDScan {
    static constexpr int BLOCK_ROWS = SSD_WARPS * ROWS;
    static constexpr int B_ITEMS = SSD_TILE / SSD_WARPS, X_ITEMS = SSD_TILE * BLOCK_ROWS / SSD_THREADS;
    static constexpr int WORDS = (N_LANE + 3) / 4;

    struct Tile {
        Entries<N_LANE> B[SSD_TILE][32], C[SSD_TILE][32];  // zero from N on
        Entries<ROWS> inputs[SSD_TILE][SSD_WARPS];         // step x
        float skip[SSD_TILE][BLOCK_ROWS];                  // D x
        float decay[SSD_TILE];
    };

    // What one thread brings of a tile: B and C of token warp + SSD_WARPS j, x of element thread + SSD_THREADS j.
    struct Codes {
        uint32_t B[B_ITEMS][WORDS], C[B_ITEMS][WORDS];
        int8_t x[X_ITEMS];
        SSDStep step[X_ITEMS];
    };

    const QuambaQuantizedSSDScan &op;
    const SSDStep *steps;  // null: found here
    int64_t b;
    int h, g, p_0, lane, warp;

    __device__ SSDScan(const QuambaQuantizedSSDScan &op, const SSDStep *steps)
        : op(op), steps(steps), b(blockIdx.z), h(blockIdx.y), g(h / int(op.size.H / op.size.G)),
          p_0(blockIdx.x * BLOCK_ROWS), lane(threadIdx.x % 32), warp(threadIdx.x / 32) {}

    __device__ __forceinline__ int channel(int row) const { return min(p_0 + row, int(op.size.P) - 1); }

    // Codes n = lane + 32 k as bytes k of a word; zero from N on.
    __device__ __forceinline__ void load_row(uint32_t (&words)[WORDS], const int8_t *codes) const {
#pragma unroll
        for (int w = 0; w < WORDS; w++) words[w] = 0;
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = lane + 32 * k;
            if (n < op.size.N) words[k / 4] |= uint32_t(uint8_t(codes[n])) << (8 * (k % 4));
        }
    }

    static __device__ __forceinline__ Entries<N_LANE> values(const uint32_t (&words)[WORDS], float scale) {
        Entries<N_LANE> entries;
#pragma unroll
        for (int k = 0; k < N_LANE; k++) entries.at[k] = dequantized(int8_t(words[k / 4] >> (8 * (k % 4))), scale);
        return entries;
    }

    // `count` tokens from token `first` on.
    __device__ __forceinline__ void load(Codes &codes, int64_t first, int count) const {
        const int64_t row = b * op.size.L + first, at = g * op.size.N;
#pragma unroll
        for (int j = 0; j < B_ITEMS; j++) {
            const int t = warp + SSD_WARPS * j;
            if (t < count) load_row(codes.B[j], op.B + (row + t) * op.B_stride + at);
            if (t < count) load_row(codes.C[j], op.C + (row + t) * op.C_stride + at);
        }
#pragma unroll
        for (int j = 0; j < X_ITEMS; j++) {
            const int i = threadIdx.x + SSD_THREADS * j, t = i / BLOCK_ROWS;
            if (t >= count) continue;
            codes.x[j] = op.x[(row + t) * op.x_stride + h * op.size.P + channel(i % BLOCK_ROWS)];
            codes.step[j] = steps ? steps[(row + t) * op.size.H + h] : ssd_step(op, row + t, h);
        }
    }

    // x_scale and D of the one row of the block that this thread stores x for.
    __device__ __forceinline__ void store(Tile &tile, const Codes &codes, int count, float B_scale, float C_scale,
                                          float x_scale, float D) const {
#pragma unroll
        for (int j = 0; j < B_ITEMS; j++) {
            const int t = warp + SSD_WARPS * j;
            if (t < count) tile.B[t][lane] = values(codes.B[j], B_scale);
            if (t < count) tile.C[t][lane] = values(codes.C[j], C_scale);
        }
#pragma unroll
        for (int j = 0; j < X_ITEMS; j++) {
            const int i = threadIdx.x + SSD_THREADS * j, t = i / BLOCK_ROWS, r = i % BLOCK_ROWS;
            if (t >= count) continue;
            const float x = dequantized(codes.x[j], x_scale);
            tile.inputs[t][r / ROWS].at[r % ROWS] = codes.step[j].step * x;
            tile.skip[t][r] = D * x;
            if (r == 0) tile.decay[t] = codes.step[j].decay;
        }
    }

    // BATCH tokens from tile row t on; y of row r and token t + i is sum i ROWS + r of the lanes.
    template <int BATCH>
    __device__ __forceinline__ void advance(float (&state)[ROWS][N_LANE], const float (&scale)[ROWS][N_LANE],
                                            const Tile &tile, int64_t row, int t) const {
        float partial[BATCH * ROWS];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const float decay = tile.decay[t + i];
            const Entries<N_LANE> B = tile.B[t + i][lane], C = tile.C[t + i][lane];
            const Entries<ROWS> inputs = tile.inputs[t + i][warp];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float read[N_LANE];
#pragma unroll
                for (int k = 0; k < N_LANE; k++) {
                    const float next = __fadd_rn(__fmul_rn(state[r][k], decay), __fmul_rn(inputs.at[r], B.at[k]));
                    read[k] = __fmul_rn(next, C.at[k]);
                    state[r][k] = State<Stored>::rounded(next, scale[r][k]);
                }
                partial[i * ROWS + r] = in_lane_sum(read);
            }
        }
        const float sum = lane_sums(partial);
        constexpr int LANES = 32 / (BATCH * ROWS);
        const int token = t + lane / LANES / ROWS, r = warp * ROWS + lane / LANES % ROWS;
        if (lane % LANES == 0 && p_0 + r < op.size.P) {
            op.y[((row + token) * op.size.H + h) * op.size.P + p_0 + r] = sum + tile.skip[token][r];
        }
    }

    __device__ __forceinline__ int64_t state_at(int r) const {
        return ((b * op.size.H + h) * op.size.P + channel(warp * ROWS + r)) * op.size.N;
    }
};

template <class Stored, int N_LANE, int ROWS>
__global__ void __launch_bounds__(SSD_THREADS) ssd_scan(QuambaQuantizedSSDScan op, const SSDStep *steps) {
    using Scan = SSDScan<Stored, N_LANE, ROWS>;
    extern __shared__ float4 shared[];
    typename Scan::Tile &tile = *reinterpret_cast<typename Scan::Tile *>(shared);
    const Scan scan(op, steps);
    const int P = int(op.size.P), N = int(op.size.N);

    float state[ROWS][N_LANE], scale[ROWS][N_LANE];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = scan.lane + 32 * k;
            const bool read = sizeof(Stored) == 1 && n < N;
            const int p = scan.channel(scan.warp * ROWS + r);
            scale[r][k] = read ? op.state_scale[op.scale_index[scan.h * P + p] * N + n] : 1.0f;
        }
    }
    const int own = scan.h * P + scan.channel(threadIdx.x % Scan::BLOCK_ROWS);
    const float x_scale = op.x_scale[op.scale_index[own]], D = op.D[scan.h];
    const float B_scale = op.B_scale[scan.g], C_scale = op.C_scale[scan.g];

    wait_for_inputs();
    typename Scan::Codes codes;
    scan.load(codes, 0, int(min(int64_t(SSD_TILE), op.size.L)));
    const Stored *stored = static_cast<const Stored *>(op.state);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = scan.lane + 32 * k;
            state[r][k] = n < N ? State<Stored>::load(stored[scan.state_at(r) + n], scale[r][k]) : 0.0f;
        }
    }
    let_next_kernel_begin();
    for (int64_t first = 0; first < op.size.L; first += SSD_TILE) {
        const int count = int(min(int64_t(SSD_TILE), op.size.L - first));
        const int64_t row = scan.b * op.size.L + first, following = first + SSD_TILE;
        __syncthreads();
        scan.store(tile, codes, count, B_scale, C_scale, x_scale, D);
        __syncthreads();
        if (following < op.size.L) scan.load(codes, following, int(min(int64_t(SSD_TILE), op.size.L - following)));
        int t = 0;
        for (; t + SSD_BATCH <= count; t += SSD_BATCH) {
            scan.template advance<SSD_BATCH>(state, scale, tile, row, t);
        }
        for (; t < count; t++) scan.template advance<1>(state, scale, tile, row, t);
    }
    Stored *out = static_cast<Stored *>(op.state_out);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = scan.lane + 32 * k;
            if (scan.p_0 + scan.warp * ROWS + r < P && n < N) {
                out[scan.state_at(r) + n] = State<Stored>::store(state[r][k], scale[r][k]);
            }
        }
    }
}

}  // namespace quamba
