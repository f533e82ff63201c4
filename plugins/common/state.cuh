// A scan's state between two tokens: held in fp32 registers, always a value that its stored dtype has.
#pragma once

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

#ifdef __CUDACC__

template <>
struct State<__half> {
    static __device__ __forceinline__ float load(__half stored, float) { return __half2float(stored); }
    static __device__ __forceinline__ float rounded(float h, float) {
        return __half2float(__float2half_rn(h));
    }
    static __device__ __forceinline__ __half store(float h, float) { return __float2half_rn(h); }
};

// Every entry behind a token becomes the value that its stored dtype has.
template <class Stored, int COUNT>
__device__ __forceinline__ void round_states(float (&h)[COUNT], const float (&scale)[COUNT]) {
    if constexpr (sizeof(Stored) == 2 && COUNT % 2 == 0) {  // __half: one conversion for two
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
