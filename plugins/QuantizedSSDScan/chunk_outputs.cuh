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
    static constexpr int WIDTH = 64 * BLOCKS, PITCH = WIDTH + 64;  // two rows of codes 64 bytes apart in the banks

    // Of one channel.
    struct Channel {
        float inside, held, x, D;  // scales: of the tokens' part, of the state's, of x; the skip
    };

    struct Shared {
        uint32_t x[OUTPUT_ROWS][CHUNK / 4];  // word 4 q + j of a channel: word j of lane q
        Channel channels[OUTPUT_ROWS];
        alignas(16) int8_t held[2][OUTPUT_ROWS][PITCH];
    };

    const QuambaQuantizedSSDScan &op;
    int64_t b, chunks, chunk, row;
    int h, g, p_0, count, lane, warp;

    __device__ explicit ChunkOutputs(const QuambaQuantizedSSDScan &op)
        : op(op), b(blockIdx.z), chunks(op.size.L / CHUNK), chunk(blockIdx.x % chunks),
          row(b * op.size.L + chunk * CHUNK), h(blockIdx.y), g(h / int(op.size.H / op.size.G)),
          p_0(int(blockIdx.x / chunks) * OUTPUT_ROWS), count(min(OUTPUT_ROWS, int(op.size.P) - p_0)),
          lane(threadIdx.x % 32), warp(threadIdx.x / 32) {}

    __device__ __forceinline__ int64_t head() const { return (b * chunks + chunk) * op.size.H + h; }

    // Token r of the lane's two, in its chunk.
    __device__ __forceinline__ int token(int r) const { return 16 * warp + lane / 4 + 8 * r; }

    // x of the chunk, four tokens a word.
    __device__ __forceinline__ void turn_x(Shared &shared) const {
        const int8_t *x = op.x + row * op.x_stride + h * int(op.size.P) + p_0;
        for (int i = threadIdx.x; i < OUTPUT_ROWS / 4 * CHUNK / 4; i += OUTPUT_THREADS) {
            const int place = i % 16, p = i / 16 * 4, first = 16 * (place % 4) + 2 * (place / 4);
            uint32_t words[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                words[k] = code_word<ALIGNED>(x + (first + 8 * (k / 2) + k % 2) * op.x_stride, p, count);
            }
            transpose_bytes(words);
#pragma unroll
            for (int k = 0; k < 4; k++) shared.x[p + k][place] = words[k];
        }
    }

    __device__ __forceinline__ int8_t x_code(const Shared &shared, int p, int t) const {
        const int place = 4 * (t % 8 / 2) + t / 16, byte = t / 8 % 2 * 2 + t % 2;
        return int8_t(shared.x[p][place] >> 8 * byte);
    }

    // Starts to bring the codes of the state.
    __device__ __forceinline__ void load_held(Shared &shared, const ChunkWorkspace &workspace) const {
        constexpr int PIECES = WIDTH / 16;
        for (int i = threadIdx.x; i < 2 * OUTPUT_ROWS * PIECES; i += OUTPUT_THREADS) {
            const int high = i / (OUTPUT_ROWS * PIECES), p = i / PIECES % OUTPUT_ROWS, at = i % PIECES * 16;
            const int64_t from = (head() * 2 + high) * op.size.P + p_0 + min(p, count - 1);
            copy_async(shared_address(&shared.held[high][p][at]), workspace.held + from * WIDTH + at, 16);
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

    // What reaches the lane's token r from tokens 8 j + 2 (lane % 4) + e: step and decay since.
    __device__ __forceinline__ float weight(const ChunkWeights &weights, float arrived, int j, int r, int e) const {
        const int own = 2 * warp + r, s = CHUNK_TILE * j + 2 * (lane % 4) + e, t = token(r);
        if (j < own) return weights.ended[s] * arrived;
        if (j > own || s > t) return 0.0f;
        return run<1>(weights.decay, s + 1, t + 1) * weights.step[s];
    }

    // The weighted products C B of the lane's two tokens, and the unit of each.
    __device__ __forceinline__ void mix(float (&mixed)[CHUNK_TILES][4], const uint4 (&read)[BLOCKS][2],
                                        const ChunkWeights &weights) const {
        const int N = int(op.size.N);
        const float begun[2] = {weights.begun[token(0)], weights.begun[token(1)]};
#pragma unroll
        for (int j = 0; j < CHUNK_TILES; j++) {
            if (j > 2 * warp + 1) {
#pragma unroll
                for (int i = 0; i < 4; i++) mixed[j][i] = 0.0f;
                continue;
            }
            int32_t sums[4] = {};
            const int8_t *B = op.B + (row + CHUNK_TILE * j + lane / 4) * op.B_stride + g * N;
#pragma unroll
            for (int block = 0; block < BLOCKS; block++) {
                multiply(sums, read[block], code_words<ALIGNED>(B, 64 * block + 16 * (lane % 4), N));
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int r = i / 2;
                const float arrived = weights.between[2 * warp + r][j] * begun[r];
                mixed[j][i] = weight(weights, arrived, j, r, i % 2) * static_cast<float>(sums[i]);
            }
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
                         *reinterpret_cast<const uint4 *>(&shared.held[high][own][64 * block + 16 * q]));
            }
            if (high == 0) break;
#pragma unroll
            for (int k = 0; k < 4; k++) inside[k] *= 256, held[k] *= 256;
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int p = 8 * i + 2 * q + k % 2, t = token(k / 2);
            const Channel channel = shared.channels[p];
            const float x = dequantized(x_code(shared, p, t), channel.x);
            const float tokens = static_cast<float>(inside[k]) * units[k / 2] * channel.inside;
            const float state = static_cast<float>(held[k]) * channel.held * first[k / 2];
            if (p < count) op.y[((row + t) * op.size.H + h) * op.size.P + p_0 + p] = tokens + state + channel.D * x;
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
    const ChunkWeights &weights = workspace.weights[outputs.head()];
    const float first[2] = {weights.first[outputs.token(0)], weights.first[outputs.token(1)]};
    uint4 read[BLOCKS][2], codes[2][2];
    float units[2];
    outputs.turn_x(shared);
    outputs.load_read(read);
    {
        float mixed[CHUNK_TILES][4];
        outputs.mix(mixed, read, weights);
        outputs.fix(codes, units, mixed);
    }
    wait_for_inputs();  // for the states alone: the kernel before this one waited for all else
    let_next_kernel_begin();
    outputs.load_held(shared, workspace);
    if (threadIdx.x < OUTPUT_ROWS) {
        const int p = outputs.p_0 + min(int(threadIdx.x), outputs.count - 1);
        const float x_scale = op.x_scale[op.scale_index[outputs.h * op.size.P + p]];
        const float B_scale = op.B_scale[outputs.g], C_scale = op.C_scale[outputs.g];
        const float unit = workspace.units[outputs.head() * op.size.P + p];
        shared.channels[threadIdx.x] = {B_scale * C_scale * x_scale, unit * C_scale, x_scale, op.D[outputs.h]};
    }
    wait_copy_groups<0>();
    __syncthreads();
    for (int i = 0; i < (outputs.count + 7) / 8; i++) outputs.write(shared, codes, read, units, first, i);
}

}  // namespace quamba
