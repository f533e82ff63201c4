// Mamba-2's scan as the recurrence of op.py, for the tokens behind the whole chunks (chunk.cuh) but for a call of
// one (step.cuh): the state stays in registers.
//
// A warp owns ROWS channels p of one head; lane l holds entries n = l + 32 k of each row's state. Tokens come
// in tiles: while one is worked on, the codes of the next are on their way into shared memory. B and C are
// dequantized once a block, the tree sum over n is finished for SSD_BATCH tokens at once (common/warp.cuh).
#pragma once

#include "../common/async_copy.cuh"
#include "../common/overlap.cuh"
#include "../common/rotation.cuh"
#include "../common/state.cuh"
#include "../common/warp.cuh"
#include "contracts.h"
#include "inputs.cuh"
#include "workspace.cuh"

namespace quamba {

constexpr int SSD_WARPS = 4, SSD_THREADS = 32 * SSD_WARPS, SSD_BATCH = 8;

// What the steps of one head have in common; no kernel writes it.
struct SSDHead {
    float A, dt_bias;
};

__device__ __forceinline__ SSDHead ssd_head(float A_log, float dt_bias) {
    return {-exp_rounded_soon(A_log), dt_bias};
}

template <class Op>
__device__ __forceinline__ SSDStep ssd_step(const Op &op, SSDHead head, SSDElement<Op> dt) {
    const float sum = SSDInputs<Op>::dt(op, dt) + head.dt_bias;
    const float step = fminf(fmaxf(softplus_soon(sum), op.dt_min), op.dt_max);
    return {step, exp_rounded_soon(step * head.A)};
}

// steps (B L, H): all steps of a call without chunks, once instead of once a block.
template <class Op>
static __global__ void ssd_steps(Op op, SSDStep *steps) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, H = op.size.H;
    const SSDHead head = ssd_head(op.A_log[i % H], op.dt_bias[i % H]);
    wait_for_inputs();
    if (i < op.size.B * op.size.L * H) steps[i] = ssd_step(op, head, elements<Op>(op.dt)[i / H * op.dt_stride + i % H]);
    let_next_kernel_begin();
}

// The entries n = lane + 32 k that one lane holds, for vector loads.
template <int COUNT>
struct alignas(COUNT < 4 ? 4 * COUNT : 16) Entries {
    float at[COUNT];
};

// N_LANE: entries of a row's state a lane holds, a power of two; 32 N_LANE >= N. TILE: tokens a tile.
template <class Op, class Stored, int N_LANE, int ROWS, int TILE>
struct SSDScan {
    using Element = SSDElement<Op>;
    static constexpr int BLOCK_ROWS = SSD_WARPS * ROWS, WIDTH = 32 * N_LANE;
    static constexpr bool ROW_SCALES = HAS_ROW_SCALES<Stored>;

    // A tile as it comes from memory; two of them, so that one is filled while the other is worked on.
    struct Codes {
        Element B[TILE][WIDTH], C[TILE][WIDTH], x[TILE][BLOCK_ROWS];
        SSDStep step[TILE];
    };

    // A tile as the recurrence wants it.
    struct Values {
        Entries<N_LANE> B[TILE][32], C[TILE][32];  // zero from N on
        Entries<ROWS> inputs[TILE][SSD_WARPS];         // step x
        float skip[TILE][BLOCK_ROWS];                  // D x
        float decay[TILE];
    };

    struct Shared {
        Codes codes[2];
        Values values;
    };

    const Op &op;
    const SSDStep *steps;  // null: found here
    int piece_bytes;       // B, C and x may be copied 16 or 4 bytes at a time, or by the element
    int64_t b;
    int h, g, p_0, lane, warp;

    __device__ SSDScan(const Op &op, const SSDStep *steps, int piece_bytes)
        : op(op), steps(steps), piece_bytes(piece_bytes), b(blockIdx.z), h(blockIdx.y),
          g(h / int(op.size.H / op.size.G)), p_0(blockIdx.x * BLOCK_ROWS), lane(threadIdx.x % 32),
          warp(threadIdx.x / 32) {}

    __device__ __forceinline__ int channel(int row) const { return min(p_0 + row, int(op.size.P) - 1); }

    // `count` rows of `width` elements, `stride` apart, into rows of PITCH, BYTES at a time.
    template <int BYTES, int PITCH>
    __device__ __forceinline__ void copy_pieces(Element (*to)[PITCH], const Element *from, int64_t stride,
                                                int width, int count) const {
        constexpr int PIECE = BYTES / sizeof(Element), PIECES = PITCH / PIECE, ROWS_AT_ONCE = SSD_THREADS / PIECES;
        static_assert(ROWS_AT_ONCE > 0, "a row is more pieces than the block has threads");
        const int first = threadIdx.x / PIECES, at = threadIdx.x % PIECES * PIECE;
        if (at >= width) return;
        from += first * stride + at;
        for (int t = first; t < count; t += ROWS_AT_ONCE, from += ROWS_AT_ONCE * stride) {
            copy_piece_async<BYTES>(&to[t][at], from);
        }
    }

    template <int PITCH>
    __device__ __forceinline__ void copy_rows(Element (*to)[PITCH], const Element *from, int64_t stride,
                                              int width, int count) const {
        constexpr bool WHOLE = PITCH * sizeof(Element) % 16 == 0;
        if (WHOLE && piece_bytes == 16) {
            copy_pieces<WHOLE ? 16 : 4>(to, from, stride, width, count);
        } else if (piece_bytes >= 4) {
            copy_pieces<4>(to, from, stride, width, count);
        } else {
            for (int i = threadIdx.x; i < count * PITCH; i += SSD_THREADS) {
                const int t = i / PITCH, at = i % PITCH;
                if (at < width) to[t][at] = from[t * stride + at];
            }
        }
    }

    // Starts to bring `count` tokens from token `first` on.
    __device__ __forceinline__ void load(Codes &codes, SSDHead head, int64_t first, int count) const {
        const int64_t row = b * op.size.L + first;
        const int N = int(op.size.N), P = int(op.size.P);
        copy_rows(codes.B, elements<Op>(op.B) + row * op.B_stride + g * N, op.B_stride, N, count);
        copy_rows(codes.C, elements<Op>(op.C) + row * op.C_stride + g * N, op.C_stride, N, count);
        copy_rows(codes.x, elements<Op>(op.x) + row * op.x_stride + h * P + p_0, op.x_stride,
                  min(BLOCK_ROWS, P - p_0), count);
        if (threadIdx.x < count) {
            const int64_t at = row + threadIdx.x;
            if (steps) {
                copy_piece_async<4>(&codes.step[threadIdx.x].step, &steps[at * op.size.H + h].step);
                copy_piece_async<4>(&codes.step[threadIdx.x].decay, &steps[at * op.size.H + h].decay);
            } else {
                codes.step[threadIdx.x] = ssd_step(op, head, elements<Op>(op.dt)[at * op.dt_stride + h]);
            }
        }
        end_copy_group();
    }

    // In the basis that the state is held in: rows with scales of their own are rotated.
    __device__ __forceinline__ Entries<N_LANE> dequantized_row(const Element *codes, float scale) const {
        Entries<N_LANE> entries;
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = lane + 32 * k;
            entries.at[k] = n < op.size.N ? static_cast<float>(codes[n]) : 0.0f;
        }
        if constexpr (ROW_SCALES) rotate<false>(entries.at, lane, rotation_size(int(op.size.N)));
#pragma unroll
        for (int k = 0; k < N_LANE; k++) entries.at[k] = entries.at[k] * scale;
        return entries;
    }

    // x_scale and D of the one row of the block whose x this thread works on.
    __device__ __forceinline__ void prepare(Values &values, const Codes &codes, int count, float B_scale,
                                            float C_scale, float x_scale, float D) const {
        for (int t = warp; t < count; t += SSD_WARPS) {
            values.B[t][lane] = dequantized_row(codes.B[t], B_scale);
            values.C[t][lane] = dequantized_row(codes.C[t], C_scale);
        }
        for (int i = threadIdx.x; i < count * BLOCK_ROWS; i += SSD_THREADS) {
            const int t = i / BLOCK_ROWS, r = i % BLOCK_ROWS;
            const float x = static_cast<float>(codes.x[t][r]) * x_scale;
            values.inputs[t][r / ROWS].at[r % ROWS] = codes.step[t].step * x;
            values.skip[t][r] = D * x;
            if (r == 0) values.decay[t] = codes.step[t].decay;
        }
    }

    // BATCH tokens from tile row t on; y of row r and token t + i is sum i ROWS + r of the lanes.
    template <int BATCH>
    __device__ __forceinline__ void advance(float (&state)[ROWS][N_LANE], float (&scale)[ROWS][N_LANE],
                                            const Values &values, int64_t row, int t) const {
        float partial[BATCH * ROWS];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const float decay = values.decay[t + i];
            const Entries<N_LANE> B = values.B[t + i][lane], C = values.C[t + i][lane];
            const Entries<ROWS> inputs = values.inputs[t + i][warp];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float read[N_LANE];
#pragma unroll
                for (int k = 0; k < N_LANE; k++) {
                    state[r][k] = next_state(state[r][k], decay, inputs.at[r], B.at[k]);
                    read[k] = state[r][k] * C.at[k];
                }
                round_states<Stored>(state[r], scale[r]);
                partial[i * ROWS + r] = in_lane_sum(read);
            }
        }
        const float sum = lane_sums(partial);
        constexpr int LANES = 32 / (BATCH * ROWS);
        const int token = t + lane / LANES / ROWS, r = warp * ROWS + lane / LANES % ROWS;
        if (lane % LANES == 0 && p_0 + r < op.size.P) {
            op.y[((row + token) * op.size.H + h) * op.size.P + p_0 + r] = sum + values.skip[token][r];
        }
    }

    __device__ __forceinline__ int64_t row_at(int r) const {
        return (b * op.size.H + h) * op.size.P + channel(warp * ROWS + r);
    }
    __device__ __forceinline__ int64_t state_at(int r) const { return row_at(r) * op.size.N; }
};

// Tokens from `begin` on, which are behind the chunks that left their state in state_out.
template <class Stored, int N_LANE, int ROWS, int TILE, class Op>
__global__ void __launch_bounds__(SSD_THREADS) ssd_scan(Op op, RowScales rows, const SSDStep *steps,
                                                        int64_t begin, int piece_bytes) {
    using Scan = SSDScan<Op, Stored, N_LANE, ROWS, TILE>;
    using Inputs = SSDInputs<Op>;
    extern __shared__ float4 bytes[];
    typename Scan::Shared &shared = *reinterpret_cast<typename Scan::Shared *>(bytes);
    const Scan scan(op, steps, piece_bytes);
    const int P = int(op.size.P), N = int(op.size.N);

    Stored held[ROWS][N_LANE];
    float state[ROWS][N_LANE], scale[ROWS][N_LANE];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = scan.lane + 32 * k;
            const int p = scan.channel(scan.warp * ROWS + r);
            if constexpr (std::is_same_v<Stored, int8_t>) {
                scale[r][k] = n < N ? op.state_scale[op.scale_index[scan.h * P + p] * N + n] : 1.0f;
            } else {
                scale[r][k] = 1.0f;
            }
        }
    }
    const int own = scan.h * P + scan.channel(threadIdx.x % Scan::BLOCK_ROWS);
    const float x_scale = Inputs::x_scale(op, own), D = op.D[scan.h];
    const float share = Scan::ROW_SCALES ? 1.0f / rotation_size(N) : 1.0f;
    const float B_scale = Inputs::B_scale(op, scan.g), C_scale = Inputs::C_scale(op, scan.g) * share;
    const SSDHead head =
        !steps && threadIdx.x < TILE ? ssd_head(op.A_log[scan.h], op.dt_bias[scan.h]) : SSDHead{};

    wait_for_inputs();
    const Stored *stored = static_cast<const Stored *>(begin ? op.state_out : op.state);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = scan.lane + 32 * k;
            held[r][k] = n < N ? stored[scan.state_at(r) + n] : Stored{};
            if constexpr (Scan::ROW_SCALES) scale[r][k] = rows.in[scan.row_at(r)];
        }
    }
    scan.load(shared.codes[0], head, begin, int(min(int64_t(TILE), op.size.L - begin)));
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int k = 0; k < N_LANE; k++) state[r][k] = State<Stored>::load(held[r][k], scale[r][k]);
    }
    int turn = 0;
    for (int64_t first = begin; first < op.size.L; first += TILE, turn ^= 1) {
        const int count = int(min(int64_t(TILE), op.size.L - first));
        const int64_t row = scan.b * op.size.L + first, following = first + TILE;
        wait_copy_groups<0>();
        __syncthreads();
        scan.prepare(shared.values, shared.codes[turn], count, B_scale, C_scale, x_scale, D);
        __syncthreads();
        if (following < op.size.L) {
            scan.load(shared.codes[turn ^ 1], head, following,
                      int(min(int64_t(TILE), op.size.L - following)));
        }
        int t = 0;
        if constexpr (TILE >= SSD_BATCH) {
            for (; t + SSD_BATCH <= count; t += SSD_BATCH) {
                scan.template advance<SSD_BATCH>(state, scale, shared.values, row, t);
            }
        }
        for (; t < count; t++) scan.template advance<1>(state, scale, shared.values, row, t);
    }
    let_next_kernel_begin();
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
        if constexpr (Scan::ROW_SCALES) {
            if (scan.p_0 + scan.warp * ROWS + r < P && scan.lane == 0) rows.out[scan.row_at(r)] = scale[r][0];
        }
    }
}

}  // namespace quamba
