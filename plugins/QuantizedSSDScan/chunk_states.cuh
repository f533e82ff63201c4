// The state before and behind every chunk (chunk.py), one chunk after the other, the state in registers.
//
// A block owns 16 channels p of one head, a warp 32 entries n of their states. What a chunk adds is a product of
// tensor cores: tokens times weights as two codes each (rows p, columns s), by B's codes. Lane l holds the
// entries n = 8 (l % 4) + j of rows l / 4 and l / 4 + 8: column c of product i is n = 4 c + i.
#pragma once

#include "../common/fixed_point.cuh"
#include "../common/int8_mma.cuh"
#include "chunk.cuh"

namespace quamba {

constexpr int STATE_ROWS = 16, STATE_COLUMNS = 32, STATE_ENTRIES = 8;

template <class Stored, int WARPS>
struct ChunkStates {
    static constexpr int WIDTH = STATE_COLUMNS * WARPS;
    // Each warp makes the codes of this many times four rows.
    static constexpr int FOURS = WARPS < STATE_ROWS / 4 ? STATE_ROWS / 4 / WARPS : 1;

    struct alignas(16) Shared {
        // Two codes of 16 rows and 64 turned tokens, as lane q gives them to product k: words 2 k and 2 k + 1, each
        // of a row and of that 8 further down. [turn][low, high][k][row][q][word][rows]
        uint32_t codes[2][2][2][STATE_ROWS / 2][4][2][2];
        float units[2][STATE_ROWS];
        float largest[2][STATE_ROWS][WARPS];  // of a row's state
    };

    // What a thread reads of a chunk: the tokens' words of four entries of B, eight turned tokens of its rows of x
    // and their weights.
    struct Inputs {
        uint4 B[4];
        uint2 x[FOURS];
        float4 last[2];
        float decay;
    };

    // Where a thread reads and writes, of the chunk at hand.
    struct Places {
        const int8_t *B, *x;
        const ChunkWeights *weights;
        int8_t *held;
        float *unit;
    };

    const QuambaQuantizedSSDScan &op;
    int64_t b, chunks;
    int h, g, p_0, lane, warp;

    __device__ explicit ChunkStates(const QuambaQuantizedSSDScan &op)
        : op(op), b(blockIdx.z), chunks(op.size.L / CHUNK), h(blockIdx.y),
          g(h * unsigned(op.size.G) / unsigned(op.size.H)), p_0(blockIdx.x * STATE_ROWS),
          lane(threadIdx.x % 32), warp(threadIdx.x / 32) {}

    // The row whose codes this lane makes, those of eight places.
    __device__ __forceinline__ int own_row(int turn) const { return 4 * (warp + turn * WARPS) + lane / 8; }

    // Row r and entry j of the lane's states.
    __device__ __forceinline__ int channel(int r) const { return p_0 + lane / 4 + 8 * r; }
    __device__ __forceinline__ int entry(int j) const { return STATE_COLUMNS * warp + 8 * (lane % 4) + j; }
    __device__ __forceinline__ int64_t state_at(int r, int j) const {
        return ((b * op.size.H + h) * op.size.P + channel(r)) * op.size.N + entry(j);
    }
    __device__ __forceinline__ bool is_there(int r, int j) const {
        return channel(r) < op.size.P && entry(j) < op.size.N;
    }

    __device__ __forceinline__ Places places(const ChunkWorkspace &workspace) const {
        const int64_t at = b * chunks, head = at * op.size.H + h, P = op.size.P;
        const int own = min(p_0 + min(own_row(0), STATE_ROWS - 1), int(P) - 1);
        Places places;
        places.B = workspace.rows + ((at * op.size.G + g) * WIDTH + STATE_COLUMNS * warp + lane / 4 * 4) * CHUNK +
                   16 * (lane % 4);
        places.x = workspace.x + (head * P + own) * CHUNK + 8 * (lane % 8);
        places.weights = found_now(workspace.weights + head);
        places.held = workspace.held + (head * 2 * P + channel(0)) * WIDTH + entry(0);
        places.unit = workspace.units + head * P + channel(0);
        return places;
    }

    __device__ __forceinline__ void load(Inputs &inputs, const Places &at) const {
#pragma unroll
        for (int i = 0; i < 4; i++) inputs.B[i] = *reinterpret_cast<const uint4 *>(at.B + i * CHUNK);
#pragma unroll
        for (int turn = 0; turn < FOURS; turn++) {
            const bool there = p_0 + own_row(turn) < op.size.P;
            const int8_t *const x = at.x + turn * 4 * WARPS * CHUNK;
            inputs.x[turn] = there ? *reinterpret_cast<const uint2 *>(x) : uint2{};
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            inputs.last[i] = *reinterpret_cast<const float4 *>(&at.weights->last[8 * (lane % 8) + 4 * i]);
        }
        inputs.decay = at.weights->first[CHUNK - 1];
    }

    // The next chunk's.
    __device__ __forceinline__ void move_on(Places &at) const {
        at.B += op.size.G * WIDTH * CHUNK;
        at.x += op.size.H * op.size.P * CHUNK;
        at.weights += op.size.H;
    }

    // The weighted tokens of the warp's rows as codes.
    __device__ __forceinline__ void weigh(Shared &shared, const Inputs &inputs, int turn) const {
        const float4 &a = inputs.last[0], &b = inputs.last[1];
        const float last[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int four = 0; four < FOURS; four++) {
            const int row = own_row(four);
            if (row >= STATE_ROWS) break;
            float weighted[8], largest = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint32_t word = i < 4 ? inputs.x[four].x : inputs.x[four].y;
                weighted[i] = last[i] * static_cast<float>(int8_t(word >> 8 * (i % 4)));
                largest = fmaxf(largest, fabsf(weighted[i]));
            }
#pragma unroll
            for (int distance = 1; distance < 8; distance *= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, distance));
            }
            const FixedUnit fixed = fixed_unit(largest);
            FixedWords words[2];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                uint32_t bits[4];
#pragma unroll
                for (int i = 0; i < 4; i++) bits[i] = fixed_bits(weighted[4 * j + i], fixed.inverse);
                words[j] = fixed_words(bits);
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int k = lane % 2, q = lane % 8 / 2;
                shared.codes[turn][0][k][row % 8][q][j][row / 8] = words[j].low;
                shared.codes[turn][1][k][row % 8][q][j][row / 8] = words[j].high;
            }
            if (lane % 8 == 0) shared.units[turn][row] = fixed.unit;
        }
    }

    __device__ __forceinline__ void put_largest(Shared &shared, const float (&state)[2][STATE_ENTRIES],
                                                int turn) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float largest = 0.0f;
#pragma unroll
            for (int j = 0; j < STATE_ENTRIES; j++) largest = fmaxf(largest, fabsf(state[r][j]));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
            if (lane % 4 == 0) shared.largest[turn][lane / 4 + 8 * r][warp] = largest;
        }
    }

    // The state before a chunk as codes, for the outputs.
    __device__ __forceinline__ void put_held(Places &at, const Shared &shared,
                                             const float (&state)[2][STATE_ENTRIES], int turn) const {
        const int64_t P = op.size.P, plane = P * WIDTH;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float largest = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                largest = fmaxf(largest, shared.largest[turn][lane / 4 + 8 * r][w]);
            }
            const FixedUnit fixed = fixed_unit(largest);
            FixedWords words[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t bits[4];
#pragma unroll
                for (int j = 0; j < 4; j++) bits[j] = fixed_bits(state[r][4 * i + j], fixed.inverse);
                words[i] = fixed_words(bits);
            }
            if (channel(r) >= P) continue;
            int8_t *const held = at.held + r * 8 * WIDTH;
            *reinterpret_cast<uint2 *>(held) = {words[0].low, words[1].low};
            *reinterpret_cast<uint2 *>(held + plane) = {words[0].high, words[1].high};
            if (lane % 4 == 0 && warp == 0) at.unit[8 * r] = fixed.unit;
        }
        at.held += op.size.H * 2 * plane;
        at.unit += op.size.H * P;
    }

    // The state behind a chunk. scale: of rows r, x's times B's.
    __device__ __forceinline__ void advance(const Shared &shared, const Inputs &inputs,
                                            float (&state)[2][STATE_ENTRIES], const float (&scale)[2],
                                            int turn) const {
        int32_t sums[4][4] = {};
#pragma unroll
        for (int high = 1; high >= 0; high--) {
            uint4 rows[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                rows[k] = *reinterpret_cast<const uint4 *>(shared.codes[turn][high][k][lane / 4][lane % 4]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint4 words = inputs.B[i];
                mma(sums[i], rows[0].x, rows[0].y, rows[0].z, rows[0].w, words.x, words.y);
                mma(sums[i], rows[1].x, rows[1].y, rows[1].z, rows[1].w, words.z, words.w);
                if (high == 0) continue;
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] *= 256;
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float factor = shared.units[turn][lane / 4 + 8 * r] * scale[r];
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float &h = state[r][i + 4 * half];
                    h = h * inputs.decay + static_cast<float>(sums[i][2 * r + half]) * factor;
                }
            }
        }
    }
};

// Grid: channels by 16, H, B.
template <class Stored, int WARPS>
__global__ void __launch_bounds__(32 * WARPS) ssd_chunk_states(QuambaQuantizedSSDScan op,
                                                               ChunkWorkspace workspace) {
    using States = ChunkStates<Stored, WARPS>;
    __shared__ typename States::Shared shared;
    const States states(op);
    float scale[2], state_scale[2][STATE_ENTRIES], state[2][STATE_ENTRIES];
    const Stored *stored = static_cast<const Stored *>(op.state);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = op.scale_index[states.h * op.size.P + min(states.channel(r), int(op.size.P) - 1)];
        scale[r] = op.x_scale[row] * op.B_scale[states.g];
#pragma unroll
        for (int j = 0; j < STATE_ENTRIES; j++) {
            const bool read = sizeof(Stored) == 1 && states.is_there(r, j);
            state_scale[r][j] = read ? op.state_scale[row * op.size.N + states.entry(j)] : 1.0f;
        }
    }
    typename States::Inputs inputs, following;
    typename States::Places places = states.places(workspace);
    // the kernel before this one does not write the state, and waited for the ones that do
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int j = 0; j < STATE_ENTRIES; j++) {
            const Stored held = states.is_there(r, j) ? stored[states.state_at(r, j)] : Stored(0);
            state[r][j] = State<Stored>::load(held, state_scale[r][j]);
        }
    }
    wait_for_inputs();
    let_next_kernel_begin();
    states.load(inputs, places);
    for (int64_t chunk = 0; chunk < states.chunks; chunk++) {
        const int turn = chunk % 2;
        if (chunk + 1 < states.chunks) states.move_on(places);  // what comes behind the last chunk is not used
        states.load(following, places);
        states.weigh(shared, inputs, turn);
        states.put_largest(shared, state, turn);
        __syncthreads();
        states.put_held(places, shared, state, turn);
        states.advance(shared, inputs, state, scale, turn);
#pragma unroll
        for (int r = 0; r < 2; r++) round_states<Stored>(state[r], state_scale[r]);
        inputs = following;
    }
    Stored *out = static_cast<Stored *>(op.state_out);
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int j = 0; j < STATE_ENTRIES; j++) {
            if (!states.is_there(r, j)) continue;
            out[states.state_at(r, j)] = State<Stored>::store(state[r][j], state_scale[r][j]);
        }
    }
}

}  // namespace quamba
