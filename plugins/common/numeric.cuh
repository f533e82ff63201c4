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

// x = n ln 2 + r with |r| <= ln 2 / 2, and 2^n; |x| at most 700.
struct ExpParts {
    double r, power;
};

QUAMBA_HOST_DEVICE ExpParts exp_parts(double x) {
    const double round = 6755399441055744.0;  // 1.5 2^52: its ulp is 1
    const double shifted = fma(x, 1.4426950408889634, round), n = shifted - round;
    ExpParts parts;
    parts.r = fma(n, -2.3190468138462996e-17, fma(n, -0.69314718055994529, x));
    uint64_t bits;  // the last of `shifted` are n
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 1023) << 52;
    memcpy(&parts.power, &bits, sizeof(bits));
    return parts;
}

// exp_rounded(x) for x <= 0, straight through: what the faster forms of decay.cuh are held to and fall back on.
//
// Taylor's polynomial of degree 13 is within 2^-57 of exp(r). Below -105 the fp32 result is 0.
QUAMBA_HOST_DEVICE float decay_rounded(float x) {
    const ExpParts parts = exp_parts(fmaxf(x, -105.0f));
    const double r = parts.r;
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
    return static_cast<float>(sum * parts.power);
}

// exp(x), |x| at most 700, within 2^-51 of itself: decay_rounded's polynomial by Estrin's scheme, four sums
// behind one another instead of thirteen, for a thread that has nothing else to do meanwhile.
QUAMBA_HOST_DEVICE double exp_soon(double x) {
    const ExpParts parts = exp_parts(x);
    const double r = parts.r, r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
    const double a = fma(fma(r, 1.0 / 6.0, 0.5), r2, 1.0 + r);
    const double b = fma(fma(r, 1.0 / 5040.0, 1.0 / 720.0), r2, fma(r, 1.0 / 120.0, 1.0 / 24.0));
    const double c = fma(fma(r, 1.0 / 39916800.0, 1.0 / 3628800.0), r2, fma(r, 1.0 / 362880.0, 1.0 / 40320.0));
    const double d = fma(r, 1.0 / 6227020800.0, 1.0 / 479001600.0);
    return fma(fma(d, r4, c), r8, fma(b, r4, a)) * parts.power;
}

// exp_rounded(x); the fp32 result is 0 below -105, infinite beyond 89.
QUAMBA_HOST_DEVICE float exp_rounded_soon(float x) {
    const float low = x < -105.0f ? -105.0f : x;  // NaN stays
    return static_cast<float>(exp_soon(low > 89.0f ? 89.0f : low));
}

// log(1 + e) for e from 0 to 1, within 2^-51 of itself: 2 atanh(f / (2 + f)), f = e or, from sqrt(2) - 1 on,
// (e - 1) / 2 and ln 2 more. The quotient is below 0.172: its series to the power 21 is within 2^-57.
QUAMBA_HOST_DEVICE double log1p_soon(double e) {
    const bool upper = e > 0.41421356237309503;
    const double f = upper ? 0.5 * e - 0.5 : e, s = f / (2.0 + f);
    const double z = s * s, z2 = z * z, z4 = z2 * z2;
    const double a = fma(fma(z, 2.0 / 9.0, 2.0 / 7.0), z2, fma(z, 2.0 / 5.0, 2.0 / 3.0));
    const double b = fma(fma(z, 2.0 / 17.0, 2.0 / 15.0), z2, fma(z, 2.0 / 13.0, 2.0 / 11.0));
    const double c = fma(z, 2.0 / 21.0, 2.0 / 19.0);
    const double series = fma(fma(c, z4, b), z4, a);
    return fma(s * z, series, s + s) + (upper ? 0.69314718055994529 : 0.0);
}

QUAMBA_HOST_DEVICE float silu(float x) {
    const double wide = x;
    return static_cast<float>(wide / (1.0 + exp(-wide)));
}

QUAMBA_HOST_DEVICE float softplus(float x) {
    const double wide = x;
    return static_cast<float>(fmax(wide, 0.0) + log1p(exp(-fabs(wide))));
}

// softplus(x), straight through; an e below exp(-105) counts for nothing in fp32.
QUAMBA_HOST_DEVICE float softplus_soon(float x) {
    const float negative = -fabsf(x), low = negative < -105.0f ? -105.0f : negative;  // NaN stays
    const double positive = x > 0.0f ? x : 0.0f;
    return static_cast<float>(positive + log1p_soon(exp_soon(low)));
}

// silu(x), straight through; beyond exp(200) the fp32 result is 0.
QUAMBA_HOST_DEVICE float silu_soon(float x) {
    const double wide = x;
    return static_cast<float>(wide / (1.0 + exp_soon(x < -200.0f ? 200.0 : x > 200.0f ? -200.0 : -wide)));
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

// 1.5 2^23: its ulp is 1, its last 16 bits are zero. What is added rounds half to even, into the last bits.
constexpr float FIXED_ROUND = 12582912.0f;

// silu(x) by the GPU's own estimates. The exponential is within 2^-22 + 2^-23 |x| of itself, its reciprocal within
// 2^-23; below -87 the result is 0.
QUAMBA_HOST_DEVICE float silu_estimate(float x) {
#ifdef __CUDA_ARCH__
    float power, reciprocal;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0f + power));
    return x * reciprocal;
#else
    return x / (1.0f + expf(-x));
#endif
}

// A code as the last byte of `bits`, right where `sure`, found without a branch.
struct EstimatedCode {
    uint32_t bits;
    bool sure;
};

// The code at `steps` that may be off by `relative` of themselves and `margin`: sure where no half step lies nearer.
QUAMBA_HOST_DEVICE EstimatedCode estimated_code(float steps, float relative, float margin) {
    const float within = clipped(steps), rounded = within + FIXED_ROUND;
    EstimatedCode code;
    memcpy(&code.bits, &rounded, sizeof(rounded));
    code.sure = 0.5f - fabsf(within - (rounded - FIXED_ROUND)) > fmaf(fabsf(within), relative, margin);
    return code;
}

// quantized(silu(x), scale) where `sure`. `reciprocal` is the scale's plain one, `margin` its silu_margin().
//
// In units of 2^-24 of the steps: the exponential 4 + 2 |x|, its reciprocal 2, the sum 1, two products 2, the
// reciprocal of the scale 2, the two roundings of what is estimated 2; together 13 + 2 |x|. For positive x the sigmoid
// takes on less than half of what the exponential is off by: below 12. Allowed are 16, and 4 |x| more for negative x.
QUAMBA_HOST_DEVICE EstimatedCode silu_code(float x, float reciprocal, float margin) {
    return estimated_code(silu_estimate(x) * reciprocal, fmaf(fmaxf(-x, 0.0f), 0x1p-22f, 0x1p-20f), margin);
}

QUAMBA_HOST_DEVICE uint32_t picked_bytes(uint32_t a, uint32_t b, uint32_t which) {
#ifdef __CUDA_ARCH__
    return __byte_perm(a, b, which);
#else
    const uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t picked = 0;
    for (int i = 0; i < 4; i++) picked |= uint32_t(bytes >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
    return picked;
#endif
}

// The last bytes of four words, the first one's first.
QUAMBA_HOST_DEVICE uint32_t last_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return picked_bytes(picked_bytes(a, b, 0x0040), picked_bytes(c, d, 0x0040), 0x5410);
}

// 1 / x, or NaN where the estimates below would lose it.
QUAMBA_HOST_DEVICE float safe_reciprocal(float x) {
    const float reciprocal = 1.0f / x;
    return reciprocal > 1e-30f && reciprocal < 1e30f ? reciprocal : NAN;
}

// 1 / (root * scale) for quantized_quotient(), or NaN: the divisions decide where their first quotient may be
// subnormal half a step from zero, and so rounded by more than the estimate allows for.
QUAMBA_HOST_DEVICE float quotient_reciprocal(float root, float scale) {
    return scale < 0x1p-125f ? NAN : safe_reciprocal(root * scale);
}

// Scales whose reciprocals quantized_by() takes.
QUAMBA_HOST_DEVICE bool has_plain_reciprocal(float scale) { return scale > 1e-18f && scale < 1e18f; }

// The margin of silu_code(): far more steps than a flush to zero loses; none is wide enough for other scales.
QUAMBA_HOST_DEVICE float silu_margin(float scale) { return has_plain_reciprocal(scale) ? 1e-7f : INFINITY; }

// 1 / scale to an ulp, for such a scale, without the branch of a division.
QUAMBA_HOST_DEVICE float plain_reciprocal(float scale) {
#ifdef __CUDA_ARCH__
    const float estimate = __fdividef(1.0f, scale);
    return fmaf(estimate, fmaf(-scale, estimate, 1.0f), estimate);
#else
    return 1.0f / scale;
#endif
}

// quantized(value, scale) without a division; `reciprocal` is the scale's plain one.
//
// One correction of value * reciprocal by its exact remainder is the correctly rounded quotient (Markstein), as
// in the compiler's own division; beyond 300 steps, where the remainder may overflow, the code clips anyway.
QUAMBA_HOST_DEVICE int8_t quantized_by(float value, float scale, float reciprocal) {
    const float estimate = value * reciprocal, remainder = fmaf(-scale, estimate, value);
    const float steps = fabsf(estimate) < 300.0f ? fmaf(remainder, reciprocal, estimate) : estimate;
    return static_cast<int8_t>(clipped(rintf(steps)));
}

// quantized_by() for any scale: others are brought where it holds by a power of two, and the value with them.
QUAMBA_HOST_DEVICE int8_t quantized_anyhow(float value, float scale) {
    const float power = has_plain_reciprocal(scale) ? 1.0f : scale < 1.0f ? 0x1p100f : 0x1p-100f;
    return quantized_by(value * power, scale * power, plain_reciprocal(scale * power));
}

// quantized(value / root, scale), the same code for every input, mostly without a division.
//
// `reciprocal` is quotient_reciprocal(root, scale). The estimate and what quantized() rounds are five fp32
// roundings apart, below 2^-21. Only where a half step lies nearer than that are the divisions done.
QUAMBA_HOST_DEVICE int8_t quantized_quotient(float value, float root, float scale, float reciprocal) {
    const float steps = value * reciprocal, nearest = rintf(steps);
    if (0.5f - fabsf(steps - nearest) > fabsf(steps) * 9.5367431640625e-07f)
        return static_cast<int8_t>(clipped(nearest));
    return quantized(value / root, scale);
}

// A root mean square to divide by without divisions.
struct Root {
    float value, reciprocal;

    QUAMBA_HOST_DEVICE static Root of(float value) { return {value, 1.0f / value}; }

    // v / value rounded once where divides(v): an estimate and two corrections by exact remainders, of which the
    // second is Markstein's, right for a reciprocal rounded once and an estimate within one unit.
    QUAMBA_HOST_DEVICE float divide(float v) const {
        const float estimate = v * reciprocal;
        const float close = fmaf(fmaf(-value, estimate, v), reciprocal, estimate);
        return fmaf(fmaf(-value, close, v), reciprocal, close);
    }

    // Whether no remainder leaves fp32's normal range, for |v| up to 2^30 roots.
    QUAMBA_HOST_DEVICE bool divides(float v) const {
        constexpr float LEAST = 0x1p-60f, MOST = 0x1p60f;
        return value >= LEAST && value <= MOST && (fabsf(v) >= LEAST || v == 0.0f);
    }
};

// n / divisor for 0 <= n < 65536 by a multiplication; the divisor is 1 to 65535.
struct Divisor {
    uint32_t inverse;  // 0 of 1

    QUAMBA_HOST_DEVICE explicit Divisor(int divisor) : inverse(0xffffffffu / uint32_t(divisor) + 1) {}
    QUAMBA_HOST_DEVICE int divide(int n) const { return inverse ? int(uint64_t(n) * inverse >> 32) : n; }
};

}  // namespace quamba
