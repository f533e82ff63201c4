// Whole chunks of 64 tokens (chunk.py), by three kernels: what decay and step make of every chunk, and its codes as
// the tensor cores take them, here; the states, chunk after chunk (chunk_states.cuh); the outputs of all chunks at once (chunk_outputs.cuh).
#pragma once

#include "../common/fixed_point.cuh"
#include "kernel.cuh"

namespace quamba {

constexpr int WEIGHT_HEADS = 4, WEIGHT_THREADS = WEIGHT_HEADS * CHUNK;

// Four codes from entry `at` on of a row of `count`, zero from there on. ALIGNED: whole words.
template <bool ALIGNED>
__device__ __forceinline__ uint32_t code_word(const int8_t *row, int at, int count) {
    if constexpr (ALIGNED) return at < count ? *reinterpret_cast<const uint32_t *>(row + at) : 0;
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (at + i < count) word |= uint32_t(uint8_t(row[at + i])) << 8 * i;
    }
    return word;
}

// Sixteen codes, likewise.
template <bool ALIGNED>
__device__ __forceinline__ uint4 code_words(const int8_t *row, int at, int count) {
    if constexpr (ALIGNED) return at < count ? *reinterpret_cast<const uint4 *>(row + at) : uint4{};
    return {code_word<false>(row, at, count), code_word<false>(row, at + 4, count),
            code_word<false>(row, at + 8, count), code_word<false>(row, at + 12, count)};
}

// Where token t of a chunk stands among turned codes. Both operands of an int8 product may have their columns in
// the same other order: in this one the weighted products of C and B are codes of the next product where they are
// (chunk_outputs.cuh). Place 16 q + 4 j + i has token 16 j + 8 (i / 2) + 2 q + i % 2: word j of lane q.
QUAMBA_HOST_DEVICE constexpr int turned_place(int t) {
    return 16 * (t % 8 / 2) + 4 * (t / 16) + t / 8 % 2 * 2 + t % 2;
}

// Codes of a chunk's tokens, rows of `stride`, as rows of 64 turned tokens: `rows` of them, zero from `count` on.
template <bool ALIGNED>
__device__ __forceinline__ void turn_codes(int8_t *to, const int8_t *from, int stride, int count, int rows) {
    constexpr int WORDS = CHUNK / 4, AT_ONCE = 4;
    const int total = (rows + 3) / 4 * WORDS;
    for (int first = threadIdx.x; first < total; first += AT_ONCE * WEIGHT_THREADS) {
        uint32_t words[AT_ONCE][4];
#pragma unroll
        for (int turn = 0; turn < AT_ONCE; turn++) {
            const int i = first + turn * WEIGHT_THREADS, token = 16 * (i % 4) + 2 * (i % WORDS / 4);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int8_t *const row = from + (token + 8 * (k / 2) + k % 2) * stride;
                words[turn][k] = code_word<ALIGNED>(row, i / WORDS * 4, count);
            }
        }
#pragma unroll
        for (int turn = 0; turn < AT_ONCE; turn++) {
            const int i = first + turn * WEIGHT_THREADS, row = i / WORDS * 4;
            transpose_bytes(words[turn]);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (row + k < rows) reinterpret_cast<uint32_t *>(to)[(row + k) * WORDS + i % WORDS] = words[turn][k];
            }
        }
    }
}

// Turns the chunk's codes of x, WEIGHT_HEADS heads a block, or of one group of B.
template <bool ALIGNED>
__device__ __forceinline__ void turn_chunk(const QuambaQuantizedSSDScan &op, const ChunkWorkspace &workspace,
                                           int block) {
    const int64_t b = blockIdx.z, chunk = blockIdx.x, at = b * (op.size.L / CHUNK) + chunk;
    const int64_t row = b * op.size.L + chunk * CHUNK, G = op.size.G;
    const int H = int(op.size.H), P = int(op.size.P), N = int(op.size.N);
    const int x_blocks = (H + WEIGHT_HEADS - 1) / WEIGHT_HEADS, first = block * WEIGHT_HEADS;
    wait_for_inputs();
    let_next_kernel_begin();
    if (block < x_blocks) {  // a row of x has its heads side by side
        const int channels = min(WEIGHT_HEADS, H - first) * P;
        turn_codes<ALIGNED>(workspace.x + (at * H + first) * P * CHUNK, op.x + row * op.x_stride + first * P,
                            int(op.x_stride), channels, channels);
    } else {
        const int g = block - x_blocks, width = ChunkWorkspace::width(N);
        turn_codes<ALIGNED>(workspace.rows + (at * G + g) * width * CHUNK, op.B + row * op.B_stride + g * N,
                            int(op.B_stride), N, width);
    }
}

// Eight factors, as two words of a row in shared memory.
struct Factors {
    float at[CHUNK_TILE];

    static __device__ __forceinline__ Factors of(const float *row) {
        const float4 lower = *reinterpret_cast<const float4 *>(row);
        const float4 upper = *reinterpret_cast<const float4 *>(row + 4);
        return {lower.x, lower.y, lower.z, lower.w, upper.x, upper.y, upper.z, upper.w};
    }

    // The product of factors first to last - 1, from the left.
    __device__ __forceinline__ float product(int first, int last) const {
        float product = 1.0f;
#pragma unroll
        for (int i = 0; i < CHUNK_TILE; i++) product = i >= first && i < last ? product * at[i] : product;
        return product;
    }
};

// The weights of a chunk of WEIGHT_HEADS heads, a thread for one token of one head; only the steps behind the last
// chunk.
__device__ __forceinline__ void weigh_chunk(const QuambaQuantizedSSDScan &op, const ChunkWorkspace &workspace) {
    alignas(16) __shared__ float decays[WEIGHT_HEADS][CHUNK + CHUNK_TILE], totals[WEIGHT_HEADS][CHUNK_TILES];
    const int own = threadIdx.x % WEIGHT_HEADS, t = threadIdx.x / WEIGHT_HEADS;
    const int tile = t / CHUNK_TILE, place = t % CHUNK_TILE;
    const int64_t H = op.size.H, b = blockIdx.z, h = blockIdx.y * WEIGHT_HEADS + own;
    const int64_t token = int64_t(blockIdx.x) * CHUNK + t, row = b * op.size.L + token;
    const int64_t chunks = op.size.L / CHUNK;
    const bool inside = h < H && token < op.size.L;
    const SSDHead head = inside ? ssd_head(op.A_log[h], op.dt_bias[h]) : SSDHead{};
    wait_for_inputs();
    let_next_kernel_begin();
    const SSDStep step = inside ? ssd_step(op, head, op.dt[row * op.dt_stride + h]) : SSDStep{};
    if (blockIdx.x == chunks) {
        if (inside) workspace.steps[row * H + h] = step;
        return;
    }
    decays[own][t] = step.decay;
    __syncthreads();
    const Factors of_tile = Factors::of(&decays[own][tile * CHUNK_TILE]);
    const float begun = of_tile.product(0, place + 1);
    const float ended = of_tile.product(place + 1, CHUNK_TILE) * step.step;
    if (place == CHUNK_TILE - 1) totals[own][tile] = begun;
    __syncthreads();
    if (!inside) return;
    const Factors of_chunk = Factors::of(totals[own]);
    const float rest = of_chunk.product(tile + 1, CHUNK_TILES - 1) * of_chunk.at[CHUNK_TILES - 1];
    ChunkWeights &weights = workspace.weights[(b * chunks + blockIdx.x) * H + h];
    weights.step[t] = step.step, weights.decay[t] = step.decay;
    weights.ended[t] = ended, weights.begun[t] = begun;
    weights.first[t] = of_chunk.product(0, tile) * begun;
    weights.last[turned_place(t)] = tile == CHUNK_TILES - 1 ? ended : ended * rest;
    weights.between[tile][place] = of_chunk.product(place + 1, tile);
}

// Grid: chunks and what is behind them; heads by WEIGHT_HEADS twice, then G; B.
template <bool ALIGNED>
__global__ void __launch_bounds__(WEIGHT_THREADS) ssd_chunk_weights(QuambaQuantizedSSDScan op,
                                                                    ChunkWorkspace workspace) {
    const int weighing = int(op.size.H + WEIGHT_HEADS - 1) / WEIGHT_HEADS;
    if (blockIdx.y < weighing) {
        weigh_chunk(op, workspace);
    } else if (blockIdx.x < op.size.L / CHUNK) {
        turn_chunk<ALIGNED>(op, workspace, blockIdx.y - weighing);
    }
}

}  // namespace quamba
