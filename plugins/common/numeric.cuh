// The scalar arithmetic of the contracts, which g++ compiles too: every fp32 operation rounds by itself
// (build with --fmad=false, -ffp-contract=off), transcendental functions are taken in fp64 and rounded once.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifndef QUAMBA_HOST_DEVICE
#ifdef __CUDACC__
#define QUAMBA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define QUAMBA_HOST_DEVICE inline
#endif
#endif

namespace quamba {

QUAMBA_HOST_DEVICE float dequantized(int8_t code, float scale) { return static_cast<float>(code) * scale; }

QUAMBA_HOST_DEVICE float clipped(float steps) { return fminf(fmaxf(steps, -128.0f), 127.0f); }

// clamp(round_half_even(value / scale), -128, 127), a true division.
QUAMBA_HOST_DEVICE int8_t quantized(float value, float scale) {
    return static_cast<int8_t>(clipped(rintf(value / scale)));
}

QUAMBA_HOST_DEVICE float exp_rounded(float x) { return static_cast<float>(exp(static_cast<double>(x))); }

// exp_rounded(x) for x <= 0, straight through: what the faster forms of decay.cuh are held to and fall back on.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, where Taylor's polynomial of degree 13 is within 2^-57 of exp(r).
// Below -105 the fp32 result is 0.
QUAMBA_HOST_DEVICE float decay_rounded(float x) {
    const double wide = fmaxf(x, -105.0f), round = 6755399441055744.0;  // 1.5 2^52: its ulp is 1
    const double shifted = fma(wide, 1.4426950408889634, round), n = shifted - round;
    const double r = fma(n, -2.3190468138462996e-17, fma(n, -0.69314718055994529, wide));
    double sum = 1.0 / 6227020800.0;
    sum = fma(sum, r, 1.0 / 479001600.0);
    sum = fma(sum, r, 1.0 / 39916800.0);
    sum = fma(sum, r, 1.0 / 3628800.0);
    sum = fma(sum, r, 1.0 / 362880.0);
    sum = fma(sum, r, 1.0 / 40320.0);
    sum = fma(sum, r, 1.0 / 5040.0);
    sum = fma(sum, r, 1.0 / 720.0);
    sum = fma(sum, r, 1.0 / 120.0);
    sum = fma(sum, r, 1.0 / 24.0);
    sum = fma(sum, r, 1.0 / 6.0);
    sum = fma(sum, r, 0.5);
    sum = fma(sum, r, 1.0);
    sum = fma(sum, r, 1.0);
    uint64_t bits;  // the last of `shifted` are n
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 1023) << 52;
    double power;  // 2^n
    memcpy(&power, &bits, sizeof(power));
    return static_cast<float>(sum * power);
}

QUAMBA_HOST_DEVICE float silu(float x) {
    const double wide = x;
    return static_cast<float>(wide / (1.0 + exp(-wide)));
}

QUAMBA_HOST_DEVICE float softplus(float x) {
    const double wide = x;
    return static_cast<float>(fmax(wide, 0.0) + log1p(exp(-fabs(wide))));
}

// sqrt(sum of squares / count + epsilon).
QUAMBA_HOST_DEVICE float root_mean_square(double sum_of_squares, double count, float epsilon) {
    return static_cast<float>(sqrt(sum_of_squares / count + static_cast<double>(epsilon)));
}

// quantized(silu(x), scale), the same code for every input, mostly without fp64.
//
// The fp32 estimate is within 2^-20 of silu(x): expf 2 ulp, a sum, two divisions half an ulp each, together
// below 2^-21. Only where a half step lies nearer than that does fp64 decide; below -80 expf may overflow.
QUAMBA_HOST_DEVICE int8_t quantized_silu(float x, float scale) {
    const float steps = x / (1.0f + expf(-x)) / scale;
    const float nearest = rintf(steps), bound = fabsf(steps) * 9.5367431640625e-07f + 1e-7f;
    if (x > -80.0f && 0.5f - fabsf(steps - nearest) > bound) return static_cast<int8_t>(clipped(nearest));
    if (x > -80.0f && fabsf(steps) > 200.0f) return static_cast<int8_t>(clipped(nearest));
    if (x <= -80.0f && scale > 1e-30f) return 0;  // silu(x) is above -2e-33
    return quantized(silu(x), scale);
}

// 1 / x, or NaN where the estimates below would lose it.
QUAMBA_HOST_DEVICE float safe_reciprocal(float x) {
    const float reciprocal = 1.0f / x;
    return reciprocal > 1e-30f && reciprocal < 1e30f ? reciprocal : NAN;
}

// quantized(value / root, scale), the same code for every input, mostly without a division.
//
// `reciprocal` is safe_reciprocal(root * scale). The estimate and what quantized() rounds are five fp32
// roundings apart, below 2^-21. Only where a half step lies nearer than that are the divisions done.
QUAMBA_HOST_DEVICE int8_t quantized_quotient(float value, float root, float scale, float reciprocal) {
    const float steps = value * reciprocal, nearest = rintf(steps);
    if (0.5f - fabsf(steps - nearest) > fabsf(steps) * 9.5367431640625e-07f)
        return static_cast<int8_t>(clipped(nearest));
    return quantized(value / root, scale);
}

}  // namespace quamba
