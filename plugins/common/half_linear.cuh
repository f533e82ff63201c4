// The projections of fp16 numbers by codes: their operands, and the fp32 arithmetic behind the exact sum.
#pragma once

#include "half.cuh"
#include "half_limbs.cuh"
#include "int4_linear.cuh"

namespace quamba {

using HalfInt4Product = ProductByInt4<uint16_t>;

// sum (T, M) of x (T, K) fp16 by weight (M, K) int8; rows of x lie x_stride elements apart, weight is dense.
struct HalfInt8Product {
    const uint16_t *x;
    const int8_t *weight;
    int64_t x_stride;
    int T, K, M;

    QUAMBA_HOST_DEVICE int groups() const { return (K + 127) / 128; }  // that kernels take at a time: no scale is theirs
};

// A product of a number and a code of eight bits is below 2^47 units: 65,535 of them do not leave 64 bits.
constexpr int64_t HALF_INT8_LARGEST_K = 65535;

// Of a group's exact sum by int4 codes, which are sixteen times themselves as in int4_gemv.cuh.
QUAMBA_HOST_DEVICE float half_group_sum(int64_t total) { return nearest_float(total) * (LIMB_UNIT / 16); }

// Of the exact sum by int8 codes.
QUAMBA_HOST_DEVICE float half_sum(int64_t total) { return nearest_float(total) * LIMB_UNIT; }

// NULL, or why a projection of these sizes is not supported.
inline const char *half_linear_refusal(int64_t B, int64_t L, int64_t K, int64_t largest_K, int64_t M) {
    if (K > largest_K) return largest_K == HALF_INT8_LARGEST_K ? "K must be at most 65535" : "K must be at most 16777216";
    if (M > 65535 * 32) return "M must be at most 2097120";
    if (B > INT32_MAX / 16 / L) return "B * L must be at most 134217727";
    return nullptr;
}

}  // namespace quamba
