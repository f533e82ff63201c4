// One token (L = 1) of the recurrence of op.py: what does not depend on the inputs is found before they are
// there, what does takes one read, one look-up and one tree sum, without a barrier.
//
// dt is a code: each thread of a block finds the step and the decay of one of its 256 values. A warp owns ROWS
// channels p of one head, lane l the entries n = N_LANE l + k of each row, so that its reads are words. The
// tree's levels above N_LANE are exchanges between lanes, and so are the last: lane_sums leaves the entries of
// a row in different lanes.
#pragma once

#include "kernel.cuh"

namespace quamba {

constexpr int STEP_THREADS = 256, STEP_WARPS = STEP_THREADS / 32;

template <class T, int COUNT>
struct alignas(COUNT * sizeof(T) < 16 ? COUNT * sizeof(T) : 16) Word {
    T at[COUNT];
};

// Entries from `first` on of a row of N, zero from N on. WIDE: the row begins on a word and is made of words.
template <bool WIDE, int COUNT, class T>
__device__ __forceinline__ Word<T, COUNT> read_word(const T *row, int first, int N) {
    Word<T, COUNT> word{};
    if constexpr (WIDE) {
        if (first < N) word = *reinterpret_cast<const Word<T, COUNT> *>(row + first);
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            if (first + k < N) word.at[k] = row[first + k];
        }
    }
    return word;
}

template <bool WIDE, int COUNT, class T>
__device__ __forceinline__ void write_word(T *row, const Word<T, COUNT> &word, int first, int N) {
    if constexpr (WIDE) {
        if (first < N) *reinterpret_cast<Word<T, COUNT> *>(row + first) = word;
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            if (first + k < N) row[first + k] = word.at[k];
        }
    }
}

// Grid: rows of P in blocks, H, B. N_LANE: a power of two, 32 N_LANE >= N.
template <class Stored, int N_LANE, int ROWS, bool WIDE>
__global__ void __launch_bounds__(STEP_THREADS) ssd_one_token(QuambaQuantizedSSDScan op) {
    constexpr int LANES = 32 / ROWS;  // that end with the sum of one row
    static_assert(ROWS * N_LANE <= 32, "a sum for every lane at most");
    __shared__ SSDStep steps[256];    // by the code of dt
    let_next_kernel_begin();
    const int lane = threadIdx.x % 32, first = lane * N_LANE, P = int(op.size.P), N = int(op.size.N);
    const int h = blockIdx.y, g = h / int(op.size.H / op.size.G);
    const int p_0 = (blockIdx.x * STEP_WARPS + threadIdx.x / 32) * ROWS;
    const int64_t b = blockIdx.z, head_at = (b * op.size.H + h) * P;
    const auto row_of = [&](int r) { return min(p_0 + r, P - 1); };
    const Stored *state = static_cast<const Stored *>(op.state) + head_at * N;
    if (first < N) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) prefetch_into_L2(state + row_of(r) * N + first);
    }

    const int own = row_of(lane / LANES), scale_row = op.scale_index[h * P + own];
    const float x_scale = op.x_scale[scale_row], D = op.D[h];
    const float B_scale = op.B_scale[g], C_scale = op.C_scale[g];
    Word<float, N_LANE> scale[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if constexpr (sizeof(Stored) == 1) {
            const int64_t index = __shfl_sync(ALL_LANES, scale_row, r * LANES);
            scale[r] = read_word<WIDE, N_LANE>(op.state_scale + index * N, first, N);
        }
    }
    steps[threadIdx.x] = ssd_step(op, ssd_head(op, h), static_cast<int8_t>(threadIdx.x));
    __syncthreads();

    wait_for_inputs();
    const int8_t dt = op.dt[b * op.dt_stride + h], x_code = op.x[b * op.x_stride + h * P + own];
    const auto B = read_word<WIDE, N_LANE>(op.B + b * op.B_stride + g * N, first, N);
    const auto C = read_word<WIDE, N_LANE>(op.C + b * op.C_stride + g * N, first, N);
    Word<Stored, N_LANE> held[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) held[r] = read_word<WIDE, N_LANE>(state + row_of(r) * N, first, N);

    const SSDStep step = steps[static_cast<uint8_t>(dt)];
    const float x = dequantized(x_code, x_scale), own_input = step.step * x;
    float partial[ROWS * N_LANE];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float input = __shfl_sync(ALL_LANES, own_input, r * LANES);
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            const float entry = State<Stored>::load(held[r].at[k], scale[r].at[k]);
            const float next = next_state(entry, step.decay, input, dequantized(B.at[k], B_scale));
            partial[r * N_LANE + k] = next * dequantized(C.at[k], C_scale);
            held[r].at[k] = State<Stored>::store(next, scale[r].at[k]);
        }
        Stored *out = static_cast<Stored *>(op.state_out) + (head_at + p_0 + r) * N;
        if (p_0 + r < P) write_word<WIDE, N_LANE>(out, held[r], first, N);
    }
    float sum = lane_sums(partial);
#pragma unroll
    for (int half = N_LANE / 2; half > 0; half /= 2) {
        sum = sum + __shfl_xor_sync(ALL_LANES, sum, half * (LANES / N_LANE));
    }
    if (lane % LANES == 0 && p_0 + lane / LANES < P) op.y[head_at + own] = sum + D * x;
}

}  // namespace quamba
