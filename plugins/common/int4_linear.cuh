// The arithmetic of a W4A8 projection, which g++ compiles too: int4 codes as they lie in memory, exact integer
// sums of a group of 128 columns, the groups added in fp32 from the first to the last.
#pragma once

#include "numeric.cuh"

namespace quamba {

constexpr int INT4_CHUNK = 32;        // columns whose codes are 16 bytes
constexpr int INT4_GROUP_CHUNKS = 4;  // chunks that share a scale

// sum (T, M) of x (T, K) by weight (M, K / 2), two codes a byte; rows of x lie x_stride elements apart.
template <class X>
struct ProductByInt4 {
    const X *x;
    const int8_t *weight;
    const uint16_t *weight_scale;  // (M, groups) fp16
    int64_t x_stride;
    int T, K, M;

    QUAMBA_HOST_DEVICE int chunks() const { return K / INT4_CHUNK; }
    QUAMBA_HOST_DEVICE int groups() const {
        return (chunks() + INT4_GROUP_CHUNKS - 1) / INT4_GROUP_CHUNKS;
    }
};
using Int4Product = ProductByInt4<int8_t>;

// What a group adds to the sum of its row; `total` is sixteen times the integer sum, because a code in the upper half of a
// byte is a signed one as it is.
QUAMBA_HOST_DEVICE float group_part(int32_t total, float scale) {
    return static_cast<float>(total >> 4) * scale;
}

// 1.5 2^23: a float whose ulp is 1. An integer below 2^22 added to these bits is added to its value.
constexpr int32_t BIASED_ZERO = 0x4b400000;

// group_part(total, scale) of the bits BIASED_ZERO + total, for `sixteenth` of the scale: an fp16 scale times the bias is a
// float, so the FMA's only rounding is that of the product.
QUAMBA_HOST_DEVICE float biased_group_part(int32_t bits, float sixteenth) {
    float biased;
    memcpy(&biased, &bits, sizeof(biased));
    return fmaf(biased, sixteenth, -12582912.0f * sixteenth);
}

// sum * x_scale + bias, each rounded.
QUAMBA_HOST_DEVICE float scaled_total(float sum, float x_scale, float bias) {
    const float scaled = sum * x_scale;
    return scaled + bias;
}

}  // namespace quamba
