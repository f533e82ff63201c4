// logits (T, V) = (x / root mean square of x) @ weight (V, D)^T, x fp32 and weight fp16: the time is that of
// reading weight once.
//
// A block brings its tokens into shared memory, then each of its warps walks through rows of weight of its
// own, ROWS at a time and 256 columns a step, with DEPTH steps on their way from memory all the time, across
// the ends of rows too. The sums are of x as it is: the root divides them once they are there, so that
// nothing has to pass over a token twice.
#pragma once

#include "../common/numeric.cuh"

#ifdef __CUDACC__
#include <cuda_fp16.h>

#include "../common/batches.cuh"
#include "../common/overlap.cuh"
#include "../common/warp.cuh"
#include "../common/wide_loads.cuh"
#endif

namespace quamba {

constexpr int HEAD_WARPS = 8, HEAD_THREADS = 32 * HEAD_WARPS;
constexpr int HEAD_TOKENS = 8;  // the most in one pass over weight
constexpr int HEAD_STEP = 256;  // columns of weight that a warp multiplies at a time, eight a lane

struct HeadProduct {
    const float *x;  // rows x_stride elements apart
    const uint16_t *weight;
    float *logits;
    int64_t x_stride;
    int T, D, V;
    float epsilon;
    bool aligned;  // rows of x begin on 16 bytes and D % 4 == 0
};

// Floats of a token in shared memory: whole steps.
QUAMBA_HOST_DEVICE constexpr int head_pitch(int D) { return (D + HEAD_STEP - 1) / HEAD_STEP * HEAD_STEP; }

// Where column d lies in there: of a step the first four columns of every lane, then its other four, so that
// lanes side by side load 16 bytes side by side.
QUAMBA_HOST_DEVICE constexpr int head_place(int d) {
    return d - d % HEAD_STEP + d / 4 % 2 * (HEAD_STEP / 2) + d % HEAD_STEP / 8 * 4 + d % 4;
}

// One step of a warp: columns `d` and on of rows `row` and on.
struct HeadStep {
    int row, d;

    static QUAMBA_HOST_DEVICE HeadStep first(int warp, int rows) { return {warp * rows, 0}; }

    // The next step of a warp among `warps`. Whether this one was the last of its rows.
    QUAMBA_HOST_DEVICE bool advance(int D, int rows, int warps) {
        d += HEAD_STEP;
        if (d < D) return false;
        d = 0, row += rows * warps;
        return true;
    }
};

#ifdef __CUDACC__

// Brings TOKENS tokens from number `first` on into shared memory, zeros behind column D and behind the last
// token. Returns the root mean square of token first + `mine`.
template <int TOKENS>
__device__ __forceinline__ float stage_tokens(float *tokens, const HeadProduct &p, int first, int mine) {
    constexpr int WARPS = HEAD_WARPS / TOKENS;  // that bring one token
    __shared__ float squares[HEAD_WARPS];
    const int warp = threadIdx.x / 32, t = warp / WARPS, columns = first + t < p.T ? p.D : 0;
    const float *x = p.x + (first + t) * p.x_stride;
    float *token = tokens + t * head_pitch(p.D), sum = 0.0f;
    const auto column = [&](int d) { return d < columns ? x[d] : 0.0f; };
    const auto load = [&](int i) {
        const int d = 4 * i;
        if (p.aligned && d < columns) return reinterpret_cast<const float4 *>(x)[i];
        return float4{column(d), column(d + 1), column(d + 2), column(d + 3)};
    };
    const auto store = [&](int i, float4 v) {
        sum = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
        *reinterpret_cast<float4 *>(token + head_place(4 * i)) = v;
    };
    in_batches<4>(head_pitch(p.D) / 4, threadIdx.x % (32 * WARPS), 32 * WARPS, load, store);
    float entries[1] = {sum};
    sum = lane_sums<1>(entries);
    if (threadIdx.x % 32 == 0) squares[warp] = sum;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) total += squares[mine * WARPS + w];
    return sqrtf(total / static_cast<float>(p.D) + p.epsilon);
}

// sums[t * ROWS + r] += row r times token t over the eight columns of this lane. token: this lane's first
// four columns of token 0; `pitch` float4 from one token to the next.
template <int TOKENS, int ROWS>
__device__ __forceinline__ void multiply_step(float (&sums)[TOKENS * ROWS], const uint4 (&weight)[ROWS],
                                              const float4 *token, int pitch) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float2 w[ROWS][2];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const uint2 words = half == 0 ? uint2{weight[r].x, weight[r].y} : uint2{weight[r].z, weight[r].w};
            w[r][0] = __half22float2(reinterpret_cast<const __half2 &>(words.x));
            w[r][1] = __half22float2(reinterpret_cast<const __half2 &>(words.y));
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            const float4 x = token[t * pitch + 32 * half];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float &sum = sums[t * ROWS + r];
                sum = fmaf(w[r][0].x, x.x, sum), sum = fmaf(w[r][0].y, x.y, sum);
                sum = fmaf(w[r][1].x, x.z, sum), sum = fmaf(w[r][1].y, x.w, sum);
            }
        }
    }
}

// blockIdx.y: which TOKENS tokens. ALIGNED: weight begins on 16 bytes and D % 8 == 0.
template <int TOKENS, int ROWS, int DEPTH, bool ALIGNED>
__global__ void __launch_bounds__(HEAD_THREADS, TOKENS > 2 ? 2 : 3) rms_norm_linear(HeadProduct p) {
    constexpr int SUMS = TOKENS * ROWS, LANES = 32 / SUMS;  // that hold the same sum at the end
    extern __shared__ float4 tokens[];                      // (TOKENS, head_pitch(D)) floats
    const int lane = threadIdx.x % 32, warps = gridDim.x * HEAD_WARPS;
    const int first_token = blockIdx.y * TOKENS, t = lane / LANES / ROWS, r = lane / LANES % ROWS;

    HeadStep now = HeadStep::first(blockIdx.x * HEAD_WARPS + threadIdx.x / 32, ROWS), ahead = now;
    uint4 weight[DEPTH][ROWS];
    auto load_ahead = [&](uint4(&to)[ROWS]) {
        if (ahead.row >= p.V) return;
        const int d = ahead.d + 8 * lane;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {  // past the last row the last one again; its sums are dropped
            const uint16_t *from = p.weight + static_cast<int64_t>(min(ahead.row + i, p.V - 1)) * p.D + d;
            if (ALIGNED) {
                to[i] = d < p.D ? load_streamed(from) : uint4{0, 0, 0, 0};
            } else {
                to[i] = load_codes(reinterpret_cast<const int8_t *>(from), 2 * (p.D - d));
            }
        }
        ahead.advance(p.D, ROWS, warps);
    };
#pragma unroll
    for (int i = 0; i < DEPTH; i++) load_ahead(weight[i]);
    wait_for_inputs();
    const float root = stage_tokens<TOKENS>(reinterpret_cast<float *>(tokens), p, first_token, t);

    float sums[SUMS] = {};
    while (now.row < p.V) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            if (now.row >= p.V) break;
            multiply_step<TOKENS, ROWS>(sums, weight[i], tokens + now.d / 4 + lane, head_pitch(p.D) / 4);
            load_ahead(weight[i]);
            const int row = now.row + r;
            if (!now.advance(p.D, ROWS, warps)) continue;
            const float sum = lane_sums<SUMS>(sums);
            if (lane % LANES == 0 && row < p.V && first_token + t < p.T)
                p.logits[static_cast<int64_t>(first_token + t) * p.V + row] = sum / root;
#pragma unroll
            for (int j = 0; j < SUMS; j++) sums[j] = 0.0f;
        }
    }
    let_next_kernel_begin();
}

#endif  // __CUDACC__

}  // namespace quamba
