// silu of an fp16 number without fp64: the same bits for every one of them, as test_host_math.py finds by trying all.
//
// silu(z) = z / (1 + exp(-z)): the exponential of -|z| as a pair of fp32 numbers, by the table and the steps of decay.cuh,
// then the quotient with one correction by its remainder. Together within 2^-43 of silu(z).
#pragma once

#include "decay.cuh"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace quamba {

// Of |z|. Below, z / 2 + z^2 / 4 may be the middle between two floats but for what fp64 decides; negative numbers
// beyond the most have results whose pairs have fewer digits. What is not finite takes fp64, too.
constexpr float LEAST_PAIRED = 0x1p-12f, MOST_PAIRED = 64.0f;

// high + low
struct Pair {
    float high, low;
};

// a + b, |a| >= |b|
QUAMBA_HOST_DEVICE Pair pair_sum(float a, float b) {
    const float high = a + b;
    return {high, b - (high - a)};
}

// exp(-a) for 0 <= a <= 64, a an fp16 number. Powers: m -> the entry of m mod 32.
template <class Powers>
QUAMBA_HOST_DEVICE Pair decay_pair(float a, const Powers &powers) {
    const float shifted = fmaf(-a, STEPS_PER_NAT, FIXED_ROUND), steps = shifted - FIXED_ROUND;
    int32_t m;  // and what ends in `shifted` behind it
    memcpy(&m, &shifted, sizeof(m));
    const NarrowPower entry = powers(m);
    const float r = fmaf(steps, -NATS, -a), excess = fmaf(steps, -float(NATS_REST), entry.excess);
    const float square = r * r, rest = fmaf(r, r, -square);
    const float tail = square * r * fmaf(fmaf(0.008333334f, r, 0.041666668f), r, 0.16666667f);
    const Pair least = pair_sum(r, 0.5f * square);  // exp(r + excess) - 1 but for what follows
    const float low = least.low + (fmaf(0.5f, rest, tail) + fmaf(least.high, excess, excess));
    const float product = entry.power * least.high, product_rest = fmaf(entry.power, least.high, -product);
    const Pair sum = pair_sum(entry.power, product);
    const uint32_t exponent = uint32_t((m >> 5) - (0x4b400000 >> 5) + 127) << 23;
    float scale;
    memcpy(&scale, &exponent, sizeof(scale));
    return {sum.high * scale, (sum.low + fmaf(entry.power, low, product_rest)) * scale};
}

// silu(z), z an fp16 number.
template <class Powers>
QUAMBA_HOST_DEVICE float silu_of_half(float z, const Powers &powers) {
    const float a = fabsf(z);
    if (!(a >= LEAST_PAIRED && a <= MOST_PAIRED)) return silu(z);
    const Pair decay = decay_pair(a, powers);
    const Pair divisor = pair_sum(1.0f, decay.high);
    Pair over = {a, 0.0f};
    if (z < 0.0f) over = {a * decay.high, fmaf(a, decay.low, fmaf(a, decay.high, -(a * decay.high)))};
    const float reciprocal = 1.0f / divisor.high, quotient = over.high * reciprocal;
    const float left = fmaf(-quotient, divisor.high, over.high) + over.low;
    return copysignf(fmaf(fmaf(-quotient, divisor.low + decay.low, left), reciprocal, quotient), z);
}

#ifdef __CUDACC__

// silu of z in a block whose threads fill a table of powers, where the gates of codes have one of silu's values.
struct HalfGate {
    using Element = __half;
    static constexpr int SIZE = 32;
    NarrowPower powers[SIZE];

    template <class Op>
    __device__ __forceinline__ void set(const Op &, int i) {
        if (i < SIZE) powers[i] = NarrowPower::entry(i, POWERS);
    }

    __device__ __forceinline__ float operator()(__half z) const {
        return silu_of_half(__half2float(z), [this](int m) { return powers[m & 31]; });
    }
};

#endif  // __CUDACC__

}  // namespace quamba
