// A scan's state between two tokens: held in fp32 registers, always a value that its stored dtype has.
#pragma once

#include <cuda_fp16.h>

#include "numeric.cuh"

namespace quamba {

// `scale` counts for int8 only.
template <class Stored>
struct State;

template <>
struct State<float> {
    static __device__ __forceinline__ float load(float stored, float) { return stored; }
    static __device__ __forceinline__ float rounded(float h, float) { return h; }
    static __device__ __forceinline__ float store(float h, float) { return h; }
};

template <>
struct State<__half> {
    static __device__ __forceinline__ float load(__half stored, float) { return __half2float(stored); }
    static __device__ __forceinline__ float rounded(float h, float) { return __half2float(__float2half_rn(h)); }
    static __device__ __forceinline__ __half store(float h, float) { return __float2half_rn(h); }
};

template <>
struct State<int8_t> {
    static __device__ __forceinline__ float load(int8_t stored, float scale) { return dequantized(stored, scale); }
    static __device__ __forceinline__ float rounded(float h, float scale) {
        return clipped(rintf(h / scale)) * scale;
    }
    static __device__ __forceinline__ int8_t store(float h, float scale) { return quantized(h, scale); }
};

}  // namespace quamba
