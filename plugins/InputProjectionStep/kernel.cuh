// One token: x is normed and quantized in front of the projection's integer product, and the channels of the
// convolution are convolved behind it (common/step_end.cuh).
#pragma once

#include "../RequantizedLinear/kernel.cuh"
#include "../common/batches.cuh"
#include "../common/int8_gemv.cuh"
#include "../common/step_end.cuh"

#ifdef __CUDACC__
#include "../common/block.cuh"
#endif

namespace quamba {

struct ProjectionStepEnd : StepEnd<RequantizedEnd> {
    static constexpr int DEPTH = 7, REGISTERS = 72;      // see int8_gemv; room for a block of out_proj is left
    static constexpr bool NEXT_MAY_BEGIN_EARLY = false;  // a scan's blocks would fill what out_proj's weight needs
};

#ifdef __CUDACC__

// One token of fp32, normed and quantized by every block for itself; a block an SM makes that cheap.
struct NormedToken {
    static constexpr int HELD = 2;  // times four entries that a thread keeps in registers

    const float *x;
    float epsilon, scale;
    bool aligned;  // x begins on 16 bytes and K % 4 == 0

    template <int THREADS>
    __device__ __forceinline__ void stage(uint4 *tokens, const Int8Product &p) const {
        if (aligned && p.K <= HELD * 4 * THREADS) {
            stage_held<THREADS>(reinterpret_cast<char4 *>(tokens), p.K);
        } else {
            stage_twice<THREADS>(reinterpret_cast<int8_t *>(tokens), p.K);
        }
    }

    // What codes are made with, of the block's sum of squares.
    struct Quantizer {
        float root, scale, reciprocal;

        __device__ __forceinline__ int8_t operator()(float v) const {
            return quantized_quotient(v, root, scale, reciprocal);
        }
    };

    template <int THREADS>
    __device__ __forceinline__ Quantizer quantizer(double squares, int K) const {
        const float root = root_mean_square(block_sum<THREADS>(squares), K, epsilon);
        return {root, scale, quotient_reciprocal(root, scale)};
    }

    static __device__ __forceinline__ int whole_steps(int K) { return (K + GEMV_STEP - 1) / GEMV_STEP * GEMV_STEP; }

    // Read once: what memory takes is waited for once.
    template <int THREADS>
    __device__ __forceinline__ void stage_held(char4 *codes, int K) const {
        float4 held[HELD];
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int i = threadIdx.x + j * THREADS;
            held[j] = 4 * i < K ? reinterpret_cast<const float4 *>(x)[i] : float4{0.0f, 0.0f, 0.0f, 0.0f};
        }
        double sums[HELD] = {};
        const auto add = [](double sum, float v) { return fma(static_cast<double>(v), static_cast<double>(v), sum); };
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            sums[j] = add(add(add(add(0.0, held[j].x), held[j].y), held[j].z), held[j].w);
            if (j > 0) sums[0] += sums[j];
        }
        const Quantizer code = quantizer<THREADS>(sums[0], K);
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int i = threadIdx.x + j * THREADS;
            if (4 * i < whole_steps(K)) codes[i] = {code(held[j].x), code(held[j].y), code(held[j].z), code(held[j].w)};
        }
    }

    template <int THREADS>
    __device__ __forceinline__ void stage_twice(int8_t *codes, int K) const {
        const auto load = [&](int k) { return x[k]; };
        double sum = 0.0;
        in_batches<8>(K, load, [&](int, float v) { sum = fma(static_cast<double>(v), static_cast<double>(v), sum); });
        const Quantizer code = quantizer<THREADS>(sum, K);
        in_batches<8>(K, load, [&](int k, float v) { codes[k] = code(v); });
        for (int k = K + threadIdx.x; k < whole_steps(K); k += THREADS) codes[k] = 0;
    }
};

#endif  // __CUDACC__

}  // namespace quamba
