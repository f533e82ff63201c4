// A scan's state between two tokens: held in fp32 registers, always a value that its stored dtype has.
#pragma once

#include <type_traits>

#include "numeric.cuh"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace quamba {

// One entry of a state behind one token, not rounded yet.
QUAMBA_HOST_DEVICE float next_state(float h, float decay, float input, float B) {
    return h * decay + input * B;
}

// `scale` counts for int8 only.
template <class Stored>
struct State;

template <>
struct State<float> {
    static QUAMBA_HOST_DEVICE float load(float stored, float) { return stored; }
    static QUAMBA_HOST_DEVICE float rounded(float h, float) { return h; }
    static QUAMBA_HOST_DEVICE float store(float h, float) { return h; }
};

template <>
struct State<int8_t> {
    static QUAMBA_HOST_DEVICE float load(int8_t stored, float scale) { return dequantized(stored, scale); }
    static QUAMBA_HOST_DEVICE float rounded(float h, float scale) {
        return clipped(rintf(h / scale)) * scale;
    }
    static QUAMBA_HOST_DEVICE int8_t store(float h, float scale) { return quantized(h, scale); }
};

// A code of a state whose rows have scales of their own; the second is rounded up by chance.
struct RowCode {
    int8_t code;
};
struct ChanceCode : RowCode {};

template <class Stored>
constexpr bool HAS_ROW_SCALES = std::is_base_of_v<RowCode, Stored>;

// Where those scales are, one a row of the state; null for other states.
struct RowScales {
    const float *in;
    float *out;
};

// Whole numbers as up_by_chance of scan_state.py gives them; `steps` is at most 127 or rounded to it.
QUAMBA_HOST_DEVICE float up_by_chance(float steps) {
    const float fine = steps * 512.0f;
    return floorf(steps + (fine - floorf(fine)));
}

// Of a row whose largest absolute value is `peak`.
struct RowScale {
    float scale, inverse;

    static QUAMBA_HOST_DEVICE RowScale of(float peak) {
        const float limit = fmaxf(peak, 0x1p-100f);
        return {limit / 127.0f, 127.0f / limit};
    }
    template <class Stored>
    QUAMBA_HOST_DEVICE float steps(float h) const {
        return std::is_same_v<Stored, ChanceCode> ? up_by_chance(h * inverse) : rintf(h * inverse);
    }
};

// `scale` is the row's; what is stored has been rounded to a value of the row before.
template <>
struct State<RowCode> {
    static QUAMBA_HOST_DEVICE float load(RowCode stored, float scale) { return dequantized(stored.code, scale); }
    static QUAMBA_HOST_DEVICE RowCode store(float h, float scale) {
        return {static_cast<int8_t>(rintf(h / scale))};
    }
};

template <>
struct State<ChanceCode> : State<RowCode> {
    static QUAMBA_HOST_DEVICE ChanceCode store(float h, float scale) { return {State<RowCode>::store(h, scale)}; }
};

#ifdef __CUDACC__

// The largest of `value` over a group of LANES lanes, in all of them.
template <int LANES>
__device__ __forceinline__ float largest_of_lanes(float value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

// The scale of a row that LANES lanes hold, COUNT entries each.
template <int LANES, int COUNT>
__device__ __forceinline__ RowScale found_row_scale(const float (&h)[COUNT]) {
    float peak = 0.0f;
#pragma unroll
    for (int k = 0; k < COUNT; k++) peak = fmaxf(peak, fabsf(h[k]));
    return RowScale::of(largest_of_lanes<LANES>(peak));
}

template <>
struct State<__half> {
    static __device__ __forceinline__ float load(__half stored, float) { return __half2float(stored); }
    static __device__ __forceinline__ float rounded(float h, float) {
        return __half2float(__float2half_rn(h));
    }
    static __device__ __forceinline__ __half store(float h, float) { return __float2half_rn(h); }
};

// Every entry behind a token becomes the value that its stored dtype has; LANES lanes hold a row, whose scale
// is found here where it has one.
template <class Stored, int LANES = 32, int COUNT>
__device__ __forceinline__ void round_states(float (&h)[COUNT], float (&scale)[COUNT]) {
    if constexpr (HAS_ROW_SCALES<Stored>) {
        const RowScale row = found_row_scale<LANES>(h);
#pragma unroll
        for (int k = 0; k < COUNT; k++) h[k] = row.steps<Stored>(h[k]) * row.scale, scale[k] = row.scale;
    } else if constexpr (sizeof(Stored) == 2 && COUNT % 2 == 0) {  // __half: one conversion for two
#pragma unroll
        for (int k = 0; k < COUNT; k += 2) {
            const float2 rounded = __half22float2(__floats2half2_rn(h[k], h[k + 1]));
            h[k] = rounded.x, h[k + 1] = rounded.y;
        }
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; k++) h[k] = State<Stored>::rounded(h[k], scale[k]);
    }
}

#endif  // __CUDACC__

}  // namespace quamba
