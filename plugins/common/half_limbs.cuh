// fp16 numbers as int8 operands of exact products, which g++ compiles too.
//
// An fp16 number is an integer of 40 bits and a sign times 2^-24. In radix 256 with digits from -128 to 127 that is five
// digits and a sixth of -1 to 1: what int8 dot products multiply, and 64 bits hold the sum of exactly.
#pragma once

#include "numeric.cuh"

namespace quamba {

constexpr int LIMBS = 6;                        // digits of a number
constexpr float LIMB_UNIT = 0x1p-24f;           // of the first one
constexpr uint64_t LIMB_BIAS = 0x8080808080u;   // 128 in each of the first five

// Byte i, signed, is digit i of the number with these bits, which is finite.
QUAMBA_HOST_DEVICE uint64_t limbs_of(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const uint64_t size = uint64_t(exponent > 0 ? fraction | 1024 : fraction) << (exponent > 0 ? exponent - 1 : 0);
    return ((bits >> 15 ? 0 - size : size) + LIMB_BIAS) ^ LIMB_BIAS;
}

// Digits of four numbers, two in each of `pairs`: byte j of word i is digit i of number j.
QUAMBA_HOST_DEVICE void limb_words(uint32_t (&words)[LIMBS], const uint32_t (&pairs)[2]) {
    uint32_t low[4], high[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint64_t limbs = limbs_of(uint16_t(pairs[j / 2] >> 16 * (j % 2)));
        low[j] = uint32_t(limbs), high[j] = uint32_t(limbs >> 32);
    }
    const uint32_t even_0 = picked_bytes(low[0], low[1], 0x5140), even_1 = picked_bytes(low[2], low[3], 0x5140);
    const uint32_t odd_0 = picked_bytes(low[0], low[1], 0x7362), odd_1 = picked_bytes(low[2], low[3], 0x7362);
    words[0] = picked_bytes(even_0, even_1, 0x5410), words[1] = picked_bytes(even_0, even_1, 0x7632);
    words[2] = picked_bytes(odd_0, odd_1, 0x5410), words[3] = picked_bytes(odd_0, odd_1, 0x7632);
    const uint32_t top_0 = picked_bytes(high[0], high[1], 0x5140), top_1 = picked_bytes(high[2], high[3], 0x5140);
    words[4] = picked_bytes(top_0, top_1, 0x5410), words[5] = picked_bytes(top_0, top_1, 0x7632);
}

// The fp32 number next to `total`, half steps to even: one FMA of two exact halves, because what converts 64 bits is slow
// on many GPUs. From 2^47 on the last 16 bits are far below half a step: all that counts is whether they are zero.
QUAMBA_HOST_DEVICE float nearest_float(int64_t total) {
    const bool large = total >= int64_t(1) << 47 || total < -(int64_t(1) << 47);
    if (large) total = total >> 16 | ((total & 0xffff) != 0);
    const float sum = fmaf(static_cast<float>(int32_t(total >> 24)), 16777216.0f,
                           static_cast<float>(int32_t(total & 0xffffff)));
    return large ? sum * 65536.0f : sum;
}

}  // namespace quamba
