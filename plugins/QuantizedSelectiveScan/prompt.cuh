// A prompt of the recurrence of op.py for N up to 16: only what follows from the token before waits for it.
//
// A block owns CHANNELS channels and takes tiles of TOKENS tokens with one barrier a tile. In turn i some of its
// warps, the chain, run tile i - 2 of the recurrence with the states in registers and find y; meanwhile the other
// warps find the decays of tile i - 1, and step, step x, D x, the gate, B and C of tile i, whose codes they ask
// for ahead of those decays.
#pragma once

#include "../common/block.cuh"
#include "kernel.cuh"

namespace quamba {

// BLOCKS: of an SM at once, for which registers suffice.
template <int CHANNELS_, int TOKENS_, int LANES_, int BLOCKS_>
struct PromptShape {
    static constexpr int WIDTH = 16, CHANNELS = CHANNELS_, TOKENS = TOKENS_, BLOCKS = BLOCKS_;
    static constexpr int LANES = LANES_, N_LANE = WIDTH / LANES;  // of the chain, as in kernel.cuh
    static constexpr int BATCH = LANES < 8 ? LANES : 8;           // tokens whose tree sums end together
    static constexpr int ENTRIES = CHANNELS * WIDTH;
    static constexpr int HELPERS = CHANNELS * TOKENS;             // one for each step of a tile
    static constexpr int CHAIN = (CHANNELS * LANES + 31) / 32 * 32, THREADS = CHAIN + HELPERS;
    static constexpr int ROW_CODES = (TOKENS * WIDTH + HELPERS - 1) / HELPERS;  // of B and of C, a helper's
    static_assert(TOKENS % WIDTH == 0 && ENTRIES % 32 == 0, "16 decays a helper, of one entry");
};

// Entries lane + LANES k of a row of 16 lie beside one another, so that a lane takes them at once.
template <class Shape>
__device__ constexpr int entry_at(int place) {
    return place / Shape::N_LANE + Shape::LANES * (place % Shape::N_LANE);
}

template <int COUNT>
struct alignas(4 * COUNT) LaneEntries {
    float of[COUNT];
};

template <class Shape>
struct PromptTile {
    static constexpr int STEP_ROW = Shape::TOKENS + 4;

    LaneEntries<Shape::N_LANE> B[Shape::TOKENS][Shape::LANES], C[Shape::TOKENS][Shape::LANES];
    alignas(16) float step[Shape::CHANNELS][STEP_ROW];
    float inputs[Shape::TOKENS][Shape::CHANNELS];
    float skip[Shape::TOKENS][Shape::CHANNELS], gate[Shape::TOKENS][Shape::CHANNELS];
};

template <class Op, class Shape>
struct PromptShared {
    PromptTile<Shape> tiles[3];
    LaneEntries<Shape::N_LANE> decay[2][Shape::TOKENS][Shape::ENTRIES / Shape::N_LANE];
    typename SelectiveInputs<Op>::Gate gate;
};

// What a helper finds, in each turn for one token and channel of a tile and one entry of the tile before it.
template <class Op, class Shape>
class PromptHelper {
    using Inputs = SelectiveInputs<Op>;
    using Element = typename Inputs::Element;

public:
    static constexpr int WIDTH = Shape::WIDTH, TOKENS = Shape::TOKENS, ROWS = Shape::HELPERS / WIDTH;

    // Reads weights only, so the kernel before this one may still run. row: of the first token.
    __device__ PromptHelper(const Op &op, int thread, int64_t row, int64_t e_0)
        : op(op), thread(thread), token(thread / Shape::CHANNELS), channel(thread % Shape::CHANNELS) {
        const int N = int(op.size.N), n = entry_at<Shape>(thread % WIDTH);
        const int64_t owner = min(e_0 + thread % Shape::ENTRIES / WIDTH, op.size.E - 1);
        A = n < N ? -exp_rounded_soon(Inputs::A_log(op, op.A_log[owner * N + n])) : 0.0f;
        const int64_t e = min(e_0 + channel, op.size.E - 1);
        bias = Inputs::dt_bias(op, op.dt_bias[e]);
        D = Inputs::D(op, op.D[e]);
        next_dt = elements<Op>(op.dt) + (row + token) * op.dt_stride + e;
        next_x = elements<Op>(op.x) + (row + token) * op.x_stride + e;
        next_z = elements<Op>(op.z) + (row + token) * op.z_stride + e;
        next_B = elements<Op>(op.B) + (row + thread / WIDTH) * op.B_stride + n;
        next_C = elements<Op>(op.C) + (row + thread / WIDTH) * op.C_stride + n;
        there = n < N;
    }

    // The codes of the next tile; of its `count` tokens the last stands for those beyond.
    __device__ void load(int count) {
        if (count == TOKENS) {
            load([](int) { return 0; });
        } else {
            load([&](int t) { return min(count - 1 - t, 0); });
        }
        next_dt += TOKENS * op.dt_stride, next_x += TOKENS * op.x_stride, next_z += TOKENS * op.z_stride;
        next_B += TOKENS * op.B_stride, next_C += TOKENS * op.C_stride;
    }

    __device__ void stage(PromptTile<Shape> &tile, const typename Inputs::Gate &gate) const {
        const float wide_x = Inputs::x(op, x);
        const float step = softplus_soon(Inputs::dt(op, dt) + bias);
        tile.step[channel][token] = step;
        tile.inputs[token][channel] = step * wide_x;
        tile.skip[token][channel] = D * wide_x;
        tile.gate[token][channel] = gate(z);
        const int lane = thread % WIDTH / Shape::N_LANE, k = thread % Shape::N_LANE;
#pragma unroll
        for (int i = 0; i < Shape::ROW_CODES; i++) {
            const int t = thread / WIDTH + i * ROWS;
            if (t >= TOKENS) break;
            tile.B[t][lane].of[k] = Inputs::B(op, B[i]);
            tile.C[t][lane].of[k] = Inputs::C(op, C[i]);
        }
    }

    // Of WIDTH tokens and one entry.
    template <int PER_LANE, int COUNT>
    __device__ void find_decays(LaneEntries<PER_LANE> (&decay)[TOKENS][COUNT],
                                const PromptTile<Shape> &tile) const {
        constexpr int TOGETHER = 8;
        const int entry = thread % Shape::ENTRIES, first = thread / Shape::ENTRIES * WIDTH;
        const float *steps = tile.step[entry / WIDTH] + first;
#pragma unroll
        for (int t = 0; t < WIDTH; t += TOGETHER) {
            float found[1][TOGETHER];
            LaneEntries<4> step[TOGETHER / 4];
#pragma unroll
            for (int i = 0; i < TOGETHER / 4; i++) {
                step[i] = *reinterpret_cast<const LaneEntries<4> *>(steps + t + 4 * i);
            }
            decayed(found, [&](int, int i) { return step[i / 4].of[i % 4] * A; });
#pragma unroll
            for (int i = 0; i < TOGETHER; i++) {
                decay[first + t + i][entry / PER_LANE].of[entry % PER_LANE] = found[0][i];
            }
        }
    }

private:
    // moved(t): how many tokens further the codes of the tile's token t are read, 0 or fewer.
    template <class Moved>
    __device__ __forceinline__ void load(Moved moved) {
        const int64_t own = moved(token);
        dt = next_dt[own * op.dt_stride], x = next_x[own * op.x_stride], z = next_z[own * op.z_stride];
#pragma unroll
        for (int i = 0; i < Shape::ROW_CODES; i++) {
            const int64_t t = thread / WIDTH + i * ROWS, from = i * ROWS + moved(int(t));
            B[i] = there && t < TOKENS ? next_B[from * op.B_stride] : Element{};
            C[i] = there && t < TOKENS ? next_C[from * op.C_stride] : Element{};
        }
    }

    const Op &op;
    const int thread, token, channel;
    float A, bias, D;
    bool there;  // in rows of B and C
    const Element *next_dt, *next_x, *next_z, *next_B, *next_C;
    Element dt, x, z, B[Shape::ROW_CODES], C[Shape::ROW_CODES];
    LaneDecay decayed;
};

// The states of a lane of the chain, which runs them over a tile.
template <class Stored, class Shape>
class PromptChain {
public:
    static constexpr int LANES = Shape::LANES, N_LANE = Shape::N_LANE, TOKENS = Shape::TOKENS;
    static constexpr bool ROW_SCALES = HAS_ROW_SCALES<Stored>;

    template <class Op>
    __device__ PromptChain(const Op &op, const RowScales &rows, int64_t b, int64_t e_0)
        : lane(threadIdx.x % LANES), channel(min(int(threadIdx.x) / LANES, Shape::CHANNELS - 1)),
          N(int(op.size.N)), e(min(e_0 + channel, op.size.E - 1)), at((b * op.size.E + e) * N),
          owned(threadIdx.x / LANES < Shape::CHANNELS && e_0 + channel < op.size.E) {
        const Stored *stored = static_cast<const Stored *>(op.state);
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = lane + LANES * k;
            scale[k] = ROW_SCALES ? rows.in[at / N] : SelectiveInputs<Op>::state_scale(op);
            h[k] = n < N ? State<Stored>::load(stored[at + n], scale[k]) : 0.0f;
        }
    }

    // y of `count` tokens; y is that of the tile's first token and of channel 0.
    template <int COUNT>
    __device__ void run(const PromptTile<Shape> &tile, const LaneEntries<N_LANE> (&decay)[TOKENS][COUNT],
                        int count, float *y, int64_t E) {
        constexpr int BATCH = Shape::BATCH;
        if (count == TOKENS) {
#pragma unroll
            for (int t = 0; t < TOKENS; t += BATCH) take<BATCH>(tile, decay, t, y, E);
        } else {
            int t = 0;
            for (; t + BATCH <= count; t += BATCH) take<BATCH>(tile, decay, t, y, E);
            for (; t < count; t++) take<1>(tile, decay, t, y, E);
        }
    }

    template <class Op>
    __device__ void store(const Op &op, const RowScales &rows) const {
        if (!owned) return;
        Stored *out = static_cast<Stored *>(op.state_out);
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const int n = lane + LANES * k;
            if (n < N) out[at + n] = State<Stored>::store(h[k], scale[k]);
        }
        if (ROW_SCALES && lane == 0) rows.out[at / N] = scale[0];
    }

private:
    // BATCH tokens from token t of the tile on; lane l finds y of token l / (LANES / BATCH).
    template <int BATCH, int COUNT>
    __device__ __forceinline__ void take(const PromptTile<Shape> &tile,
                                         const LaneEntries<N_LANE> (&decay)[TOKENS][COUNT], int t, float *y,
                                         int64_t E) {
        float partial[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const LaneEntries<N_LANE> kept = decay[t + i][channel * LANES + lane];
            const LaneEntries<N_LANE> B = tile.B[t + i][lane], C = tile.C[t + i][lane];
            const float input = tile.inputs[t + i][channel];
            float read[N_LANE];
#pragma unroll
            for (int k = 0; k < N_LANE; k++) {
                h[k] = next_state(h[k], kept.of[k], input, B.of[k]);
                read[k] = h[k] * C.of[k];
            }
            round_states<Stored, LANES>(h, scale);
            partial[i] = in_lane_sum(read);
        }
        const int token = t + lane / (LANES / BATCH);
        const float sum = lane_sums<BATCH, LANES / 2>(partial) + tile.skip[token][channel];
        if (lane % (LANES / BATCH) == 0 && owned) y[token * E + e] = sum * tile.gate[token][channel];
    }

    const int lane, channel, N;
    const int64_t e, at;
    const bool owned;
    float h[N_LANE], scale[N_LANE];
};

// Grid: channels in blocks, B.
template <class Stored, class Shape, class Op>
__global__ void __launch_bounds__(Shape::THREADS, Shape::BLOCKS) selective_prompt(Op op, RowScales rows) {
    extern __shared__ __align__(16) unsigned char raw[];
    auto &shared = *reinterpret_cast<PromptShared<Op, Shape> *>(raw);
    const int64_t b = blockIdx.y, e_0 = int64_t(blockIdx.x) * Shape::CHANNELS, L = op.size.L, row = b * L;
    const int64_t tiles = (L + Shape::TOKENS - 1) / Shape::TOKENS;
    const auto count = [&](int64_t tile) { return int(min(L - tile * Shape::TOKENS, int64_t(Shape::TOKENS))); };

    const int warp = __shfl_sync(ALL_LANES, int(threadIdx.x / 32), 0);  // so the compiler sees that lanes agree
    if (warp < Shape::CHAIN / 32) {
        wait_for_inputs();
        PromptChain<Stored, Shape> chain(op, rows, b, e_0);
        for (int64_t turn = 0; turn < tiles + 2; turn++) {
            block_barrier<Shape::THREADS>();
            if (turn < 2) continue;
            const int64_t tile = turn - 2;
            float *y = op.y + (row + tile * Shape::TOKENS) * op.size.E;
            chain.run(shared.tiles[tile % 3], shared.decay[tile % 2], count(tile), y, op.size.E);
        }
        let_next_kernel_begin();
        chain.store(op, rows);
    } else {
        const int thread = threadIdx.x - Shape::CHAIN;
        PromptHelper<Op, Shape> helper(op, thread, row, e_0);
        constexpr int GATES = SelectiveInputs<Op>::Gate::SIZE;
        for (int i = thread; i < GATES; i += Shape::HELPERS) shared.gate.set(op, i);
        wait_for_inputs();
        for (int64_t turn = 0; turn < tiles + 2; turn++) {
            block_barrier<Shape::THREADS>();
            if (turn < tiles) helper.load(count(turn));
            if (turn >= 1 && turn <= tiles) {
                helper.find_decays(shared.decay[(turn - 1) % 2], shared.tiles[(turn - 1) % 3]);
            }
            if (turn < tiles) helper.stage(shared.tiles[turn % 3], shared.gate);
        }
        let_next_kernel_begin();
    }
}

}  // namespace quamba
