// The outputs of a Hadamard transform as codes; half_output.cuh writes fp16 numbers.
#pragma once

#include "hadamard_whole.cuh"

namespace quamba {

struct CodeOutput {
    using Stored = int8_t;
    double unit;              // hadamard_unit of the shape
    float out_scale, factor;  // factor: unit / out_scale; NaN where that is no plain number

    QUAMBA_HOST_DEVICE CodeOutput(int size, float out_scale)
        : unit(hadamard_unit(hadamard_shape(size))),
          out_scale(out_scale),
          factor(safe_reciprocal(out_scale) * static_cast<float>(unit)) {}

    template <class Op>
    explicit CodeOutput(const Op &op) : CodeOutput(int(op.size.E), op.out_scale) {}

    template <class Op>
    QUAMBA_HOST_DEVICE static int8_t written(const Op &op, float v) {
        return quantized(v, op.out_scale);
    }

    // quantized(sum unit, out_scale) where `sure`: seven fp32 roundings apart, below 2^-21.
    QUAMBA_HOST_DEVICE EstimatedCode estimate(double sum) const {
        return estimated_code(static_cast<float>(sum) * factor, 0x1p-20f, factor > 0.0f ? 0.0f : INFINITY);
    }

    QUAMBA_HOST_DEVICE int8_t decided(double sum) const {
        return quantized(static_cast<float>(sum * unit), out_scale);
    }

    QUAMBA_HOST_DEVICE int8_t output(double sum) const {
        const EstimatedCode found = estimate(sum);
        return found.sure ? static_cast<int8_t>(found.bits) : decided(sum);
    }
};

#ifdef __CUDACC__

// 16 codes side by side.
__device__ __forceinline__ uint4 side_by_side(const double (&v)[LAST_RADIX], const CodeOutput &scale) {
    uint32_t bits[LAST_RADIX];
    bool sure = true;
#pragma unroll
    for (int k = 0; k < LAST_RADIX; k++) {
        const EstimatedCode code = scale.estimate(v[k]);
        bits[k] = code.bits;
        sure = sure && code.sure;
    }
    if (!sure) {
#pragma unroll
        for (int k = 0; k < LAST_RADIX; k++) bits[k] = uint32_t(scale.decided(v[k]));
    }
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = last_bytes(bits[4 * i], bits[4 * i + 1], bits[4 * i + 2], bits[4 * i + 3]);
    return {words[0], words[1], words[2], words[3]};
}

#endif  // __CUDACC__

}  // namespace quamba
