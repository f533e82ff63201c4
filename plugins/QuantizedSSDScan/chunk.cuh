// Whole chunks of 64 tokens (chunk.py), by three kernels: what decay and step make of every chunk, here; the
// states, chunk after chunk (chunk_states.cuh); the outputs of all chunks at once (chunk_outputs.cuh).
#pragma once

#include "kernel.cuh"

namespace quamba {

constexpr int CHUNK = 64, CHUNK_TILE = 8, CHUNK_TILES = CHUNK / CHUNK_TILE;
constexpr int WEIGHT_HEADS = 4, WEIGHT_THREADS = WEIGHT_HEADS * CHUNK;

// Of one head and chunk; "since" is the product of the decays, from the left.
struct ChunkWeights {
    float step[CHUNK], decay[CHUNK];
    float ended[CHUNK];  // step of a token, decayed to the end of its tile
    float begun[CHUNK];  // decay since its tile's begin
    float first[CHUNK];  // decay since the chunk's begin
    float last[CHUNK];   // step of a token, decayed to the chunk's end
    float between[CHUNK_TILES][CHUNK_TILES];  // [to][from]: decay of the tiles between, for from < to
};

// How the workspace of a call is parted; B L H steps are for the tokens behind the last chunk.
struct ChunkWorkspace {
    SSDStep *steps;
    ChunkWeights *weights;  // (B, chunks, H)
    float *units;           // (B, chunks, H, P): of the rows of the states before each chunk
    int8_t *held;           // (B, chunks, H, 2, P, width): their low and high codes
    size_t bytes;           // of all

    static constexpr size_t ALIGNMENT = 256;

    __host__ static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

    // Entries of a row of codes: whole blocks of 64, one, two or four.
    QUAMBA_HOST_DEVICE static int width(int64_t N) { return N <= 64 ? 64 : N <= 128 ? 128 : 256; }

    // Its parts in `memory`.
    __host__ static ChunkWorkspace of(const QuambaQuantizedSSDScan &op, void *memory) {
        const size_t heads = op.size.B * (op.size.L / CHUNK) * op.size.H, rows = heads * op.size.P;
        char *const begin = static_cast<char *>(memory);
        const size_t weights = aligned(op.size.B * op.size.L * op.size.H * sizeof(SSDStep));
        const size_t units = weights + aligned(heads * sizeof(ChunkWeights));
        const size_t held = units + aligned(rows * sizeof(float));
        return {reinterpret_cast<SSDStep *>(begin), reinterpret_cast<ChunkWeights *>(begin + weights),
                reinterpret_cast<float *>(begin + units), reinterpret_cast<int8_t *>(begin + held),
                held + rows * 2 * width(op.size.N)};
    }
};

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

// Grid: chunks and what is behind them, heads by four, batch. A thread has one token of one head.
__global__ void __launch_bounds__(WEIGHT_THREADS) ssd_chunk_weights(QuambaQuantizedSSDScan op,
                                                                    ChunkWorkspace workspace) {
    __shared__ alignas(16) float decays[WEIGHT_HEADS][CHUNK + CHUNK_TILE], totals[WEIGHT_HEADS][CHUNK_TILES];
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
    weights.last[t] = tile == CHUNK_TILES - 1 ? ended : ended * rest;
    weights.between[tile][place] = of_chunk.product(place + 1, tile);
}

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

}  // namespace quamba
