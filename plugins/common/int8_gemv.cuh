// y (T, M) = end(x (T, K) @ weight (M, K)^T) for up to eight tokens: the time is that of reading weight once.
//
// A block owns 8 * GROUPS rows of weight and shares their K out to its warps. Weight goes from memory
// straight into registers, 16 bytes a lane and load, and there is the A operand of mma.sync, the tokens its
// eight columns. Lane l reads columns 16 (l % 4) .. + 15 of 64 where the instruction wants columns 4 (l % 4)
// and 16 + 4 (l % 4): the sum does not mind the order so long as x is read from the same places.
// Warps add up through shared memory; integers make every order the same.
#pragma once

#include "int8_mma.cuh"

namespace quamba {

constexpr int GEMV_TOKENS = 8;
constexpr int GEMV_STEP = 64;  // columns of weight that a warp multiplies at a time

// Bytes from one token to the next in shared memory: whole steps, an odd number, so that the eight lanes of
// one phase of a 16-byte load (two tokens by four pieces) meet no bank twice.
QUAMBA_HOST_DEVICE constexpr int gemv_pitch(int K) {
    return ((K + GEMV_STEP - 1) / GEMV_STEP | 1) * GEMV_STEP;
}

#ifdef __CUDACC__

// Where the codes of the tokens come from: here, from memory.
struct Codes {
    bool aligned;  // rows of x begin on 16 bytes and K % 16 == 0

    // Brings the tokens into shared memory, zeros behind column K.
    template <int THREADS>
    __device__ __forceinline__ void stage(uint4 *tokens, const Int8Product &p) const {
        const int pieces = (p.K + GEMV_STEP - 1) / GEMV_STEP * (GEMV_STEP / 16);
        for (int i = threadIdx.x; i < p.T * pieces; i += THREADS) {
            const int t = i / pieces, k = i % pieces * 16;
            uint4 *to = tokens + (t * gemv_pitch(p.K) + k) / 16;
            const int8_t *from = p.x + t * p.x_stride + k;
            if (aligned) {
                copy_async(shared_address(to), k < p.K ? from : p.x, k < p.K ? 16 : 0);
            } else {
                *to = load_codes(from, p.K - k);
            }
        }
        end_copy_group();
        wait_copy_groups<0>();
    }
};

template <int GROUPS>
__device__ __forceinline__ void multiply_step(int32_t (&sums)[(GROUPS + 1) / 2][4],
                                              const uint4 (&weight)[GROUPS], uint4 x) {
#pragma unroll
    for (int pair = 0; pair < (GROUPS + 1) / 2; pair++) {
        const uint4 upper = weight[2 * pair];
        const uint4 lower = 2 * pair + 1 < GROUPS ? weight[(2 * pair + 1) % GROUPS] : uint4{0, 0, 0, 0};
        mma(sums[pair], upper.x, lower.x, upper.y, lower.y, x.x, x.y);
        mma(sums[pair], upper.z, lower.z, upper.w, lower.w, x.z, x.w);
    }
}

// source: brings the codes of the tokens into shared memory. DEPTH: steps of weight in flight a warp. ALIGNED: weight begins on 16 bytes and K % 16 == 0.
template <class Source, class End, int GROUPS, int WARPS, int DEPTH, bool ALIGNED>
__global__ void __launch_bounds__(WARPS * 32, 768 / (WARPS * 32)) int8_gemv(Int8Product p, Source source, End end) {
    constexpr int ROWS = 8 * GROUPS;
    static_assert(ROWS * GEMV_TOKENS <= WARPS * 32, "a thread ends at most one sum");
    extern __shared__ uint4 tokens[];  // (T, gemv_pitch(K)) bytes
    __shared__ int32_t partial[WARPS][GEMV_TOKENS][ROWS];

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = blockIdx.x * ROWS;
    const int steps = (p.K + GEMV_STEP - 1) / GEMV_STEP;
    const int begin = warp * steps / WARPS, stop = (warp + 1) * steps / WARPS;

    const int8_t *rows[GROUPS];  // past the last row the last one again; its sums are dropped
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        rows[g] = p.weight + static_cast<int64_t>(min(first_row + 8 * g + lane / 4, p.M - 1)) * p.K;
    }
    uint4 weight[DEPTH][GROUPS];
    auto load_step = [&](uint4(&to)[GROUPS], int step) {
        const int k = step * GEMV_STEP + lane % 4 * 16;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (ALIGNED) {
                to[g] = k < p.K ? load_streamed(rows[g] + k) : uint4{0, 0, 0, 0};
            } else {
                to[g] = load_codes(rows[g] + k, p.K - k);
            }
        }
    };
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
        if (begin + i < stop) load_step(weight[i], begin + i);
    }

    const int t = threadIdx.x / ROWS, m = first_row + threadIdx.x % ROWS;
    const bool ends = t < p.T && m < p.M;
    typename End::Row row{};
    if (ends) row = end.row(m);
    let_next_kernel_begin();
    wait_for_inputs();
    typename End::Loaded loaded{};
    if (ends) loaded = end.load(t, m);
    source.template stage<32 * WARPS>(tokens, p);
    __syncthreads();

    int32_t sums[(GROUPS + 1) / 2][4] = {};
    const uint4 *token = tokens + lane / 4 * (gemv_pitch(p.K) / 16) + lane % 4;
    for (int step = begin; step < stop; step += DEPTH) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            if (step + i >= stop) break;
            const uint4 x = lane / 4 < p.T ? token[(step + i) * (GEMV_STEP / 16)] : uint4{0, 0, 0, 0};
            multiply_step<GROUPS>(sums, weight[i], x);
            if (step + i + DEPTH < stop) load_step(weight[i], step + i + DEPTH);
        }
    }

#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            partial[warp][sum_column(lane, i)][8 * g + lane / 4] = sums[g / 2][2 * (g % 2) + i];
        }
    }
    __syncthreads();
    if (!ends) return;
    int32_t total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) total += partial[w][t][threadIdx.x % ROWS];
    end.y[static_cast<int64_t>(t) * p.M + m] = end.value(total, row, loaded);
}

#endif  // __CUDACC__

}  // namespace quamba
