// The outputs of all chunks at once (chunk.py): a block has one chunk and up to 64 channels of one head, a warp
// 16 of its tokens.
//
// Products of tensor cores: C by B's codes, whose sums times the weights stay in the registers they are in and
// become the codes of the next product, by x; C by the codes of the state before the chunk. An int8 product adds
// over its columns in any order, so both operands take the one in which a lane's codes are words it has or can
// read at once: columns 16 q + 4 w + i are word w of lane q, and tokens 8 (2 j + i / 2) + 2 q + i % 2 word j.
#pragma once

#include "../common/fixed_point.cuh"
#include "../common/int8_mma.cuh"
#include "chunk.cuh"

namespace quamba {

constexpr int OUTPUT_ROWS = 64, OUTPUT_WARPS = CHUNK / 16, OUTPUT_THREADS = 32 * OUTPUT_WARPS;

// BLOCKS: of 64 entries n.
template <int BLOCKS, bool ALIGNED>
struct ChunkOutputs {
    static constexpr int WIDTH = 64 * BLOCKS;
    static constexpr int PITCH = BLOCKS == 1 ? WIDTH : WIDTH + 64;  // a row begins where the banks have its last one's middle

    // Of one channel.
    struct Channel {
        float inside, held, x, D;  // scales: of the tokens' part, of the state's, of x; the skip
    };

    struct Shared {
        alignas(16) uint32_t x[OUTPUT_ROWS][CHUNK / 4];  // turned
        Channel channels[OUTPUT_ROWS];
        ChunkWeights weights;
        // The codes of B, by token, and later those of the state, low and high, by channel.
        alignas(16) int8_t codes[2][CHUNK][PITCH];
    };

    const QuambaQuantizedSSDScan &op;
    int64_t b, chunks, chunk, row;
    int h, g, p_0, count, lane, warp;

    __device__ explicit ChunkOutputs(const QuambaQuantizedSSDScan &op)
        : op(op), b(blockIdx.z), chunks(op.size.L / CHUNK), chunk(blockIdx.x % chunks),
          row(b * op.size.L + chunk * CHUNK), h(blockIdx.y),
          g(h * unsigned(op.size.G) / unsigned(op.size.H)),
          p_0(int(blockIdx.x / chunks) * OUTPUT_ROWS), count(min(OUTPUT_ROWS, int(op.size.P) - p_0)),
          lane(threadIdx.x % 32), warp(threadIdx.x / 32) {}

    __device__ __forceinline__ int64_t head() const { return (b * chunks + chunk) * op.size.H + h; }

    // Token r of the lane's two, in its chunk.
    __device__ __forceinline__ int token(int r) const { return 16 * warp + lane / 4 + 8 * r; }

    // Starts to bring the weights, turned x and the codes of B.
    __device__ __forceinline__ void load_tokens(Shared &shared, const ChunkWorkspace &workspace) const {
        constexpr int PIECES = WIDTH / 16, WEIGHTS = sizeof(ChunkWeights) / 16;
        const int N = int(op.size.N);
        constexpr int ROWS = OUTPUT_THREADS / PIECES;  // at once
        const int first = threadIdx.x / PIECES, at = threadIdx.x % PIECES * 16, stride = int(op.B_stride);
        const int8_t *from = op.B + (row + first) * op.B_stride + g * N;
#pragma unroll
        for (int t = 0; t < CHUNK; t += ROWS, from += ROWS * stride) {
            int8_t *const to = &shared.codes[0][first + t][at];
            if constexpr (ALIGNED) {
                copy_async(shared_address(to), at < N ? from + at : from, at < N ? 16 : 0);
            } else {
                *reinterpret_cast<uint4 *>(to) = code_words<false>(from, at, N);
            }
        }
        const float4 *const x = reinterpret_cast<const float4 *>(workspace.x + (head() * op.size.P + p_0) * CHUNK);
        for (int i = threadIdx.x; i < count * CHUNK / 16; i += OUTPUT_THREADS) {
            copy_async(shared_address(reinterpret_cast<float4 *>(shared.x) + i), x + i, 16);
        }
        const float4 *const weights = reinterpret_cast<const float4 *>(&workspace.weights[head()]);
        static_assert(WEIGHTS <= OUTPUT_THREADS, "a thread brings one piece at most");
        if (threadIdx.x < WEIGHTS) {
            float4 *const to = reinterpret_cast<float4 *>(&shared.weights) + threadIdx.x;
            copy_async(shared_address(to), weights + threadIdx.x, 16);
        }
        end_copy_group();
    }

    // Starts to bring the codes of the state.
    __device__ __forceinline__ void load_held(Shared &shared, const ChunkWorkspace &workspace) const {
        constexpr int PIECES = WIDTH / 16, ROWS = OUTPUT_THREADS / PIECES;  // at once
        const int p = threadIdx.x / PIECES, at = threadIdx.x % PIECES * 16;
        const int8_t *from = workspace.held + (head() * 2 * op.size.P + p_0 + p) * WIDTH + at;
        const uint32_t to = shared_address(&shared.codes[0][p][at]);
#pragma unroll
        for (int high = 0; high < 2; high++, from += op.size.P * WIDTH) {
#pragma unroll
            for (int row = 0; row < OUTPUT_ROWS; row += ROWS) {
                const bool there = p + row < count;
                copy_async(to + (high * CHUNK + row) * PITCH, there ? from + row * WIDTH : from, there ? 16 : 0);
            }
        }
        end_copy_group();
    }

    // C's codes of the lane's two tokens.
    __device__ __forceinline__ void load_read(uint4 (&read)[BLOCKS][2]) const {
        const int N = int(op.size.N);
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                read[block][r] = code_words<ALIGNED>(op.C + (row + token(r)) * op.C_stride + g * N,
                                                     64 * block + 16 * (lane % 4), N);
            }
        }
    }

    __device__ __forceinline__ static void multiply(int32_t (&sums)[4], const uint4 (&left)[2], uint4 right) {
        mma(sums, left[0].x, left[1].x, left[0].y, left[1].y, right.x, right.y);
        mma(sums, left[0].z, left[1].z, left[0].w, left[1].w, right.z, right.w);
    }

    // The weighted products C B of the lane's two tokens.
    __device__ __forceinline__ void mix(float (&mixed)[CHUNK_TILES][4], const uint4 (&read)[BLOCKS][2],
                                        const Shared &shared) const {
        const ChunkWeights &weights = shared.weights;
        const int q = lane % 4;
        float own[2][2];
#pragma unroll
        for (int r = 0; r < 2; r++) near(own[r], weights, r);
#pragma unroll
        for (int j = 0; j < CHUNK_TILES; j++) {
            const float2 ended = *reinterpret_cast<const float2 *>(&weights.ended[CHUNK_TILE * j + 2 * q]);
            int32_t sums[4] = {};
            if (j < 2 * warp + 2) {
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
                    const int8_t *const B = &shared.codes[0][CHUNK_TILE * j + lane / 4][64 * block + 16 * q];
                    multiply(sums, read[block], *reinterpret_cast<const uint4 *>(B));
                }
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int tile = 2 * warp + r;
                const float arrived = weights.between[tile][j] * weights.begun[token(r)];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float far = (e ? ended.y : ended.x) * arrived;
                    const float reach = j < tile ? far : j == tile ? own[r][e] : 0.0f;
                    mixed[j][2 * r + e] = reach * static_cast<float>(sums[2 * r + e]);
                }
            }
        }
    }

    // The weights of the lane's tokens s in the tile of its token r.
    __device__ __forceinline__ void near(float (&reach)[2], const ChunkWeights &weights, int r) const {
        const int begin = CHUNK_TILE * (2 * warp + r), s = 2 * (lane % 4), t = lane / 4;
        const Factors decays = Factors::of(&weights.decay[begin]);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float since = decays.product(s + e + 1, t + 1);
            reach[e] = s + e <= t ? since * weights.step[begin + s + e] : 0.0f;
        }
    }

    // The codes of `mixed`: word j of lane q has tokens 8 (2 j + i / 2) + 2 q + i % 2.
    __device__ __forceinline__ void fix(uint4 (&codes)[2][2], float (&units)[2],
                                        const float (&mixed)[CHUNK_TILES][4]) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float largest = 0.0f;
#pragma unroll
            for (int j = 0; j < CHUNK_TILES; j++) {
                largest = fmaxf(largest, fmaxf(fabsf(mixed[j][2 * r]), fabsf(mixed[j][2 * r + 1])));
            }
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
            const FixedUnit fixed = fixed_unit(largest);
            units[r] = fixed.unit;
            FixedWords words[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t bits[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    bits[i] = fixed_bits(mixed[2 * j + i / 2][2 * r + i % 2], fixed.inverse);
                }
                words[j] = fixed_words(bits);
            }
            codes[0][r] = {words[0].low, words[1].low, words[2].low, words[3].low};
            codes[1][r] = {words[0].high, words[1].high, words[2].high, words[3].high};
        }
    }

    // y of the lane's two tokens and channels 8 i + 2 (lane % 4) and the next.
    __device__ __forceinline__ void write(const Shared &shared, const uint4 (&codes)[2][2],
                                          const uint4 (&read)[BLOCKS][2], const float (&units)[2],
                                          const float (&first)[2], int i) const {
        const int own = 8 * i + lane / 4, q = lane % 4;
        int32_t inside[4] = {}, held[4] = {};
#pragma unroll
        for (int high = 1; high >= 0; high--) {
            multiply(inside, codes[high], reinterpret_cast<const uint4 *>(shared.x[own])[q]);
#pragma unroll
            for (int block = 0; block < BLOCKS; block++) {
                multiply(held, read[block],
                         *reinterpret_cast<const uint4 *>(&shared.codes[high][own][64 * block + 16 * q]));
            }
            if (high == 0) break;
#pragma unroll
            for (int k = 0; k < 4; k++) inside[k] *= 256, held[k] *= 256;
        }
        const int p = 8 * i + 2 * q;
        float y[2][2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const Channel channel = shared.channels[p + e];
            const uint32_t word = shared.x[p + e][4 * (lane / 8) + warp] >> 8 * (lane / 4 % 2);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float x = dequantized(int8_t(word >> 16 * r), channel.x);
                const float tokens = static_cast<float>(inside[2 * r + e]) * units[r] * channel.inside;
                const float state = static_cast<float>(held[2 * r + e]) * channel.held * first[r];
                y[r][e] = tokens + state + channel.D * x;
            }
        }
        const int64_t token_values = op.size.H * op.size.P;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float *const to = op.y + (row + token(r)) * token_values + h * op.size.P + p_0 + p;
            if constexpr (ALIGNED) {
                *reinterpret_cast<float2 *>(to) = {y[r][0], y[r][1]};
            } else {
                if (p < count) to[0] = y[r][0];
                if (p + 1 < count) to[1] = y[r][1];
            }
        }
    }
};

// Grid: chunks times channels by 64, H, B.
template <int BLOCKS, bool ALIGNED>
__global__ void __launch_bounds__(OUTPUT_THREADS) ssd_chunk_outputs(QuambaQuantizedSSDScan op,
                                                                    ChunkWorkspace workspace) {
    using Outputs = ChunkOutputs<BLOCKS, ALIGNED>;
    extern __shared__ float4 bytes[];
    typename Outputs::Shared &shared = *reinterpret_cast<typename Outputs::Shared *>(bytes);
    const Outputs outputs(op);
    uint4 read[BLOCKS][2], codes[2][2];
    float units[2], mixed[CHUNK_TILES][4];
    const int channel = outputs.h * int(op.size.P) + outputs.p_0 + min(int(threadIdx.x), outputs.count - 1);
    const float x_scale = op.x_scale[op.scale_index[channel]], D = op.D[outputs.h];
    const float B_scale = op.B_scale[outputs.g], C_scale = op.C_scale[outputs.g];
    outputs.load_tokens(shared, workspace);
    outputs.load_read(read);
    wait_copy_groups<0>();
    __syncthreads();
    const float first[2] = {shared.weights.first[outputs.token(0)], shared.weights.first[outputs.token(1)]};
    outputs.mix(mixed, read, shared);
    outputs.fix(codes, units, mixed);
    __syncthreads();
    wait_for_inputs();  // for the states alone: the kernel before this one waited for all else
    outputs.load_held(shared, workspace);
    if (threadIdx.x < OUTPUT_ROWS) {
        const float unit =
            workspace.units[outputs.head() * op.size.P + outputs.p_0 + min(int(threadIdx.x), outputs.count - 1)];
        shared.channels[threadIdx.x] = {B_scale * C_scale * x_scale, unit * C_scale, x_scale, D};
    }
    let_next_kernel_begin();
    wait_copy_groups<0>();
    __syncthreads();
#pragma unroll 2
    for (int i = 0; i < (outputs.count + 7) / 8; i++) outputs.write(shared, codes, read, units, first, i);
}

}  // namespace quamba
