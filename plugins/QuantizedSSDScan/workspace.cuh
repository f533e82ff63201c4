// What the scan's kernels hand on to one another in the workspace of a call, and how large that is;
// exporter/tensorrt/memory.py has the same formula.
#pragma once

#include "../common/numeric.cuh"
#include "contracts.h"

namespace quamba {

constexpr int CHUNK = 64, CHUNK_TILE = 8, CHUNK_TILES = CHUNK / CHUNK_TILE;
constexpr int SSD_STEPS_FROM = 8;  // tokens from which on the steps are found in a kernel of their own

// One token of one head: the step and what it leaves of the state.
struct SSDStep {
    float step, decay;
};

// Of one head and chunk; "since" is the product of the decays, from the left.
struct ChunkWeights {
    float step[CHUNK], decay[CHUNK];
    float ended[CHUNK];  // step of a token, decayed to the end of its tile
    float begun[CHUNK];  // decay since its tile's begin
    float first[CHUNK];  // decay since the chunk's begin
    float last[CHUNK];   // step of a token, decayed to the chunk's end; in the order of turned codes
    float between[CHUNK_TILES][CHUNK_TILES];  // [to][from]: decay of the tiles between, for from < to
};

// How the workspace of a call is parted; B L H steps are for the tokens behind the last chunk.
struct ChunkWorkspace {
    SSDStep *steps;
    ChunkWeights *weights;  // (B, chunks, H)
    float *units;           // (B, chunks, H, P): of the rows of the states before each chunk
    int8_t *held;           // (B, chunks, H, 2, P, width): their low and high codes
    int8_t *x;              // (B, chunks, H, P, 64): turned
    int8_t *rows;           // (B, chunks, G, width, 64): B, turned
    size_t bytes;           // of all

    static constexpr size_t ALIGNMENT = 256;

    static size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

    // Entries of a row of codes: whole blocks of 64, one, two or four.
    QUAMBA_HOST_DEVICE static int width(int64_t N) { return N <= 64 ? 64 : N <= 128 ? 128 : 256; }

    // Its parts in `memory`.
    static ChunkWorkspace of(const QuambaQuantizedSSDScan &op, void *memory) {
        const size_t chunks = op.size.B * (op.size.L / CHUNK), heads = chunks * op.size.H;
        const size_t channels = heads * op.size.P;
        char *const begin = static_cast<char *>(memory);
        const size_t weights = aligned(op.size.B * op.size.L * op.size.H * sizeof(SSDStep));
        const size_t units = weights + aligned(heads * sizeof(ChunkWeights));
        const size_t held = units + aligned(channels * sizeof(float));
        const size_t x = held + aligned(channels * 2 * width(op.size.N)), rows = x + aligned(channels * CHUNK);
        return {reinterpret_cast<SSDStep *>(begin),
                reinterpret_cast<ChunkWeights *>(begin + weights),
                reinterpret_cast<float *>(begin + units),
                reinterpret_cast<int8_t *>(begin + held),
                reinterpret_cast<int8_t *>(begin + x),
                reinterpret_cast<int8_t *>(begin + rows),
                rows + chunks * op.size.G * width(op.size.N) * CHUNK};
    }
};

// Bytes for the steps of a call without chunks.
inline size_t steps_bytes(int64_t B, int64_t L, int64_t H) {
    return L < SSD_STEPS_FROM ? 0 : B * L * H * sizeof(SSDStep);
}

inline size_t workspace_bytes(const QuambaQuantizedSSDScan &op) {
    if (op.size.L < CHUNK) return steps_bytes(op.size.B, op.size.L, op.size.H);
    return ChunkWorkspace::of(op, nullptr).bytes;
}

}  // namespace quamba
