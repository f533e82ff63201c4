// The source of a gemv that takes one token from in front of its norm.
#pragma once

#include "gemv.cuh"

#ifdef __CUDACC__
#include "batches.cuh"
#include "block.cuh"

namespace quamba {

// One token of fp32, normed and quantized by every block for itself; a block an SM makes that cheap.
struct NormedToken {
    static constexpr int HELD = 2;  // times four entries that a thread keeps in registers

    const float *x;
    float epsilon, scale;
    bool aligned;  // x begins on 16 bytes and K % 4 == 0

    template <class Format>
    __device__ __forceinline__ void stage(uint4 *tokens, const typename Format::Product &p) const {
        if (aligned && p.K <= HELD * 4 * GEMV_THREADS) {
            stage_held(reinterpret_cast<char4 *>(tokens), p.K, Format::whole_columns(p.K));
        } else {
            stage_twice(reinterpret_cast<int8_t *>(tokens), p.K, Format::whole_columns(p.K));
        }
    }

    // What codes are made with, of the block's sum of squares.
    struct Quantizer {
        float root, scale, reciprocal;

        __device__ __forceinline__ int8_t operator()(float v) const {
            return quantized_quotient(v, root, scale, reciprocal);
        }
    };

    __device__ __forceinline__ Quantizer quantizer(double squares, int K) const {
        const float root = root_mean_square(block_sum<GEMV_THREADS>(squares), K, epsilon);
        return {root, scale, quotient_reciprocal(root, scale)};
    }

    // Read once: what memory takes is waited for once.
    __device__ __forceinline__ void stage_held(char4 *codes, int K, int columns) const {
        float4 held[HELD];
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int i = threadIdx.x + j * GEMV_THREADS;
            held[j] = 4 * i < K ? reinterpret_cast<const float4 *>(x)[i] : float4{0.0f, 0.0f, 0.0f, 0.0f};
        }
        double sums[HELD] = {};
        const auto add = [](double sum, float v) { return fma(static_cast<double>(v), static_cast<double>(v), sum); };
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            sums[j] = add(add(add(add(0.0, held[j].x), held[j].y), held[j].z), held[j].w);
            if (j > 0) sums[0] += sums[j];
        }
        const Quantizer code = quantizer(sums[0], K);
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int i = threadIdx.x + j * GEMV_THREADS;
            if (4 * i < columns) codes[i] = {code(held[j].x), code(held[j].y), code(held[j].z), code(held[j].w)};
        }
    }

    __device__ __forceinline__ void stage_twice(int8_t *codes, int K, int columns) const {
        const auto load = [&](int k) { return x[k]; };
        double sum = 0.0;
        in_batches<8>(K, load, [&](int, float v) { sum = fma(static_cast<double>(v), static_cast<double>(v), sum); });
        const Quantizer code = quantizer(sum, K);
        in_batches<8>(K, load, [&](int k, float v) { codes[k] = code(v); });
        for (int k = K + threadIdx.x; k < columns; k += GEMV_THREADS) codes[k] = 0;
    }
};

}  // namespace quamba

#endif  // __CUDACC__
