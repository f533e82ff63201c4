// One int8 projection: its operands, and the fp32 arithmetic behind the integer sum, which g++ compiles too.
#pragma once

#include "numeric.cuh"

namespace quamba {

// y (T, M) = x (T, K) @ weight (M, K)^T on int8 codes; rows of x lie x_stride bytes apart, weight is dense.
struct Int8Product {
    const int8_t *x;
    const int8_t *weight;
    int64_t x_stride;
    int T, K, M;
};

// 131,071 products of -128 by -128 are the most that an int32 holds.
constexpr int64_t LARGEST_K = 131071;

// fp32(total) * scale + bias: an integer rounded once, a product and a sum, each rounded, never an FMA.
QUAMBA_HOST_DEVICE float scaled_sum(int32_t total, float scale, float bias) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(__fmul_rn(__int2float_rn(total), scale), bias);
#else
    const float product = static_cast<float>(total) * scale;
    return product + bias;
#endif
}

// x_scale * weight_scale[m], one fp32 product.
QUAMBA_HOST_DEVICE float product_scale(float x_scale, float weight_scale) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(x_scale, weight_scale);
#else
    return x_scale * weight_scale;
#endif
}

}  // namespace quamba
