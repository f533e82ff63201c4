// One token (L = 1) of the recurrence of op.py: what does not depend on the inputs is found before they are
// there, what does takes one read, one look-up and one tree sum, without a barrier.
//
// Where dt is a code, each thread of a block finds the step and the decay of one of its 256 values (one thread that
// of the value at hand, where kernels do not overlap and dt is there from the start). Where it is none, one thread finds
// both behind a barrier. A warp owns ROWS channels p of one head, lane l the entries n = N_LANE l + k of each row, so that
// it reads words. The tree's levels above N_LANE are exchanges between lanes, and so are the last ones, because lane_sums
// leaves the entries of a row in different lanes.
#pragma once

#include "../common/block.cuh"
#include "kernel.cuh"
#include "step_entries.cuh"

namespace quamba {

constexpr int STEP_THREADS = 256, STEP_WARPS = STEP_THREADS / 32;

// The tree sums of ROWS rows, lane l with entries n = N_LANE l + k as entry r N_LANE + k; lane l returns that
// of row l / (32 / ROWS).
template <int ROWS, int N_LANE>
__device__ __forceinline__ float row_sums(float (&entries)[ROWS * N_LANE]) {
    static_assert(ROWS * N_LANE <= 32, "a sum for every lane at most");
    float sum = lane_sums(entries);
#pragma unroll
    for (int half = N_LANE / 2; half > 0; half /= 2) {
        sum = sum + __shfl_xor_sync(ALL_LANES, sum, half * (32 / (ROWS * N_LANE)));
    }
    return sum;
}

// Where a warp is, and what no kernel writes of its head, its group and the row of each lane.
//
// `inside` is the warp's first channel or, for a warp behind the last one, one that exists. LANES lanes end with
// the sum of one row, `own`.
template <int ROWS, bool WHOLE>
struct StepWarp {
    static constexpr int LANES = 32 / ROWS;
    int lane, h, g, p_0, inside, last, own, scale_row;
    float A_log, dt_bias, D, B_scale, C_scale, x_scale;

    template <class Op>
    __device__ __forceinline__ explicit StepWarp(const Op &op)
        : lane(threadIdx.x % 32), h(blockIdx.y), g(h * unsigned(op.size.G) / unsigned(op.size.H)),
          p_0((blockIdx.x * STEP_WARPS + threadIdx.x / 32) * ROWS),
          inside(min(p_0, int(op.size.P) - 1) / ROWS * ROWS), last(int(op.size.P) - 1 - inside),
          own(row(lane / LANES)) {}

    // Row r of the warp, or its last one.
    __device__ __forceinline__ int row(int r) const { return WHOLE ? r : min(r, last); }

    // One read, each lane from elsewhere, then exchanges: the compiler would wait for one before the next.
    __device__ __forceinline__ void read(const QuambaQuantizedSSDScan &op) {
        const void *at = op.scale_index + h * int(op.size.P) + inside + row(lane % ROWS);
        if (lane == 0) at = op.A_log + h;
        if (lane == 1) at = op.dt_bias + h;
        if (lane == 2) at = op.D + h;
        if (lane == 3) at = op.B_scale + g;
        if (lane == 4) at = op.C_scale + g;
        const float read = *static_cast<const float *>(at);
        const auto from = [&](int other) { return __shfl_sync(ALL_LANES, read, other); };
        scale_row = __float_as_int(from(8 + lane / LANES));
        A_log = from(0), dt_bias = from(1), D = from(2), B_scale = from(3), C_scale = from(4);
        x_scale = op.x_scale[scale_row];
    }

    // Of an op without scales.
    template <class Op>
    __device__ __forceinline__ void read(const Op &op) {
        A_log = op.A_log[h], dt_bias = op.dt_bias[h], D = op.D[h];
        B_scale = C_scale = x_scale = 1.0f;
    }
};

// Where the inputs and outputs of a warp lie, found before the wait.
template <class Op, class Stored, int ROWS, bool WHOLE>
struct StepPlaces {
    const SSDElement<Op> *dt, *x, *B, *C;
    int64_t row;  // the warp's first of the state
    const Stored *state;
    Stored *state_out;
    float *y;

    __device__ __forceinline__ StepPlaces(const Op &op, const StepWarp<ROWS, WHOLE> &warp, int N) {
        const int64_t b = blockIdx.z, P = op.size.P;
        row = (b * op.size.H + warp.h) * P + warp.inside;
        dt = found_now(elements<Op>(op.dt) + b * op.dt_stride + warp.h);
        x = found_now(elements<Op>(op.x) + b * op.x_stride + warp.h * P + warp.inside + warp.own);
        B = found_now(elements<Op>(op.B) + b * op.B_stride + warp.g * N);
        C = found_now(elements<Op>(op.C) + b * op.C_stride + warp.g * N);
        state = found_now(static_cast<const Stored *>(op.state) + row * N);
        state_out = found_now(static_cast<Stored *>(op.state_out) + row * N);
        y = op.y + row;
    }
};

// B or C of the lane in the basis that the state is held in.
template <bool ROTATED, class Element, int N_LANE>
__device__ __forceinline__ Entry<float, N_LANE> values_of(const Entry<Element, N_LANE> &codes, float scale,
                                                          int lane, int N) {
    Entry<float, N_LANE> values;
#pragma unroll
    for (int k = 0; k < N_LANE; k++) values.at[k] = static_cast<float>(codes.at[k]);
    if constexpr (ROTATED) rotate<true>(values.at, lane, rotation_size(N));
#pragma unroll
    for (int k = 0; k < N_LANE; k++) values.at[k] = values.at[k] * scale;
    return values;
}

// Behind the wait. step_of(dt) is called once, by all threads.
template <bool WHOLE, bool PLAIN, class Op, class Stored, int ROWS, int N_LANE, class StepOf>
__device__ __forceinline__ void take_token(const StepPlaces<Op, Stored, ROWS, WHOLE> &places,
                                           const StepWarp<ROWS, WHOLE> &warp,
                                           StoredStates<Stored, ROWS, N_LANE> &states, StepOf step_of,
                                           const RowScales &rows, int N) {
    constexpr bool SCALED = StoredStates<Stored, ROWS, N_LANE>::SCALED;
    const int first = warp.lane * N_LANE, own_row = warp.lane / warp.LANES;
    const auto B_codes = read_entries<WHOLE, N_LANE>(places.B, first, N);
    const auto C_codes = read_entries<WHOLE, N_LANE>(places.C, first, N);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        states.held[r] = read_entries<WHOLE, N_LANE>(places.state + warp.row(r) * N, first, N);
        if constexpr (SCALED) states.scale[r] = rows.in[places.row + warp.row(r)];
    }
    const SSDElement<Op> x_code = *places.x, dt = *places.dt;
    const SSDStep step = step_of(dt);
    const float x = static_cast<float>(x_code) * warp.x_scale, own_input = step.step * x;
    const auto B = values_of<SCALED>(B_codes, warp.B_scale, warp.lane, N);
    const float share = SCALED ? 1.0f / rotation_size(N) : 1.0f;
    const auto C = values_of<SCALED>(C_codes, warp.C_scale * share, warp.lane, N);
    float next[ROWS][N_LANE], read[ROWS * N_LANE];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float input = __shfl_sync(ALL_LANES, own_input, r * warp.LANES);
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            next[r][k] = next_state(states.load(r, k), step.decay, input, B.at[k]);
            read[r * N_LANE + k] = next[r][k] * C.at[k];
        }
    }
    states.template store<PLAIN>(next);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (!WHOLE && r > warp.last) continue;
        write_entries<WHOLE>(places.state_out + r * N, states.held[r], first, N);
        if constexpr (SCALED) {
            if (warp.lane == 0) rows.out[places.row + r] = states.scale[r];
        }
    }
    const float sum = row_sums<ROWS, N_LANE>(read);
    if (warp.lane % warp.LANES == 0 && own_row <= warp.last) places.y[own_row] = sum + warp.D * x;
}

// Grid: rows of P in blocks, H, B. N_LANE: a power of two, 32 N_LANE >= N. WHOLE: 32 N_LANE = N, P is a
// multiple of ROWS, and a lane's entries are aligned words.
template <class Stored, int N_LANE, int ROWS, bool WHOLE, class Op>
__global__ void __launch_bounds__(STEP_THREADS) ssd_one_token(Op op, RowScales rows) {
    constexpr bool CODES = SSDInputs<Op>::CODES;
    __shared__ SSDStep steps[CODES ? 256 : 1];  // by the code of dt
    let_next_kernel_begin();
    StepWarp<ROWS, WHOLE> warp(op);
    const int N = WHOLE ? 32 * N_LANE : int(op.size.N), first = warp.lane * N_LANE;
    const StepPlaces<Op, Stored, ROWS, WHOLE> places(op, warp, N);
#pragma unroll
    for (int r = 0; r < ROWS; r++) prefetch_into_L2(places.state + warp.row(r) * N + min(first, N - 1));
    warp.read(op);
    StoredStates<Stored, ROWS, N_LANE> states;
    if constexpr (std::is_same_v<Stored, int8_t>) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int64_t index = __shfl_sync(ALL_LANES, warp.scale_row, r * warp.LANES);
            states.set_scale(r, read_entries<WHOLE, N_LANE>(op.state_scale + index * N, first, N), N - first);
        }
    }
    const auto step_of = [&](SSDElement<Op> dt) { return ssd_step(op, ssd_head(warp.A_log, warp.dt_bias), dt); };
    if constexpr (CODES) {
        if constexpr (kernels_overlap()) {
            steps[threadIdx.x] = step_of(static_cast<int8_t>(threadIdx.x));
        } else if (threadIdx.x == 0) {  // fp64 may be slow here, and nothing hides it
            steps[static_cast<uint8_t>(*places.dt)] = step_of(*places.dt);
        }
    }
    const auto found_step = [&](SSDElement<Op> dt) {
        if constexpr (CODES) {
            return steps[static_cast<uint8_t>(dt)];
        } else {
            if (threadIdx.x == 0) steps[0] = step_of(dt);
            block_barrier<STEP_THREADS>();
            return steps[0];
        }
    };
    const bool plain = sizeof(Stored) > 1 || __all_sync(ALL_LANES, states.plain);
    if constexpr (CODES) __syncthreads();
    wait_for_inputs();
    if (warp.p_0 != warp.inside) {  // behind the last row
        if constexpr (!CODES) block_barrier<STEP_THREADS>();
        return;
    }
    if (plain) {
        take_token<WHOLE, true>(places, warp, states, found_step, rows, N);
    } else {
        take_token<WHOLE, false>(places, warp, states, found_step, rows, N);
    }
}

}  // namespace quamba
