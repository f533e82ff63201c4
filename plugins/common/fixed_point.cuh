// fp32 values as integers of 15 bits on a power of two that a row shares: two int8 codes each, for tensor cores
// (QuantizedSSDScan/chunk.py: fixed_point).
#pragma once

#include "numeric.cuh"

namespace quamba {

// A row's unit and one by it.
struct FixedUnit {
    float unit, inverse;
};

// `largest`: of the row's absolute values. The unit is 2^-13 of the power of two at or below it, of 2^-100 at least.
QUAMBA_HOST_DEVICE FixedUnit fixed_unit(float largest) {
    uint32_t bits;
    memcpy(&bits, &largest, sizeof(bits));
    const uint32_t exponent = bits >> 23 < 27 ? 27 : bits >> 23;  // of the power of two, 127 more
    const uint32_t unit = (exponent - 13) << 23, inverse = (254 + 13 - exponent) << 23;
    FixedUnit fixed;
    memcpy(&fixed.unit, &unit, sizeof(unit));
    memcpy(&fixed.inverse, &inverse, sizeof(inverse));
    return fixed;
}

// round_half_even(value / unit), at most 2^14, in the last 16 bits: the product is exact, the sum rounds it.
QUAMBA_HOST_DEVICE uint32_t fixed_bits(float value, float inverse) {
    const float sum = fmaf(value, inverse, FIXED_ROUND);
    uint32_t bits;
    memcpy(&bits, &sum, sizeof(bits));
    return bits;
}

// Byte 0 of fixed_bits() is the low code; byte 1 of this is the high one: integer = 256 high + low.
QUAMBA_HOST_DEVICE uint32_t high_bits(uint32_t bits) { return bits + 128; }

// Four integers as a word of their low and a word of their high codes.
struct FixedWords {
    uint32_t low, high;
};

QUAMBA_HOST_DEVICE FixedWords fixed_words(const uint32_t (&bits)[4]) {
    const uint32_t high_0 = picked_bytes(high_bits(bits[0]), high_bits(bits[1]), 0x0051);
    const uint32_t high_1 = picked_bytes(high_bits(bits[2]), high_bits(bits[3]), 0x0051);
    return {last_bytes(bits[0], bits[1], bits[2], bits[3]), picked_bytes(high_0, high_1, 0x5410)};
}

// Four words of four bytes: byte i of word j becomes byte j of word i.
QUAMBA_HOST_DEVICE void transpose_bytes(uint32_t (&words)[4]) {
    const uint32_t a = picked_bytes(words[0], words[1], 0x5140), b = picked_bytes(words[2], words[3], 0x5140);
    const uint32_t c = picked_bytes(words[0], words[1], 0x7362), d = picked_bytes(words[2], words[3], 0x7362);
    words[0] = picked_bytes(a, b, 0x5410), words[1] = picked_bytes(a, b, 0x7632);
    words[2] = picked_bytes(c, d, 0x5410), words[3] = picked_bytes(c, d, 0x7632);
}

}  // namespace quamba
