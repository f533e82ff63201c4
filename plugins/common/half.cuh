// fp16 numbers as W4A16 has them between its ops (half.py).
#pragma once

#include "numeric.cuh"

#ifdef __CUDACC__
#include <cuda_fp16.h>

namespace quamba {

// to_half(v): beyond fp16's largest number it saturates; NaN stays.
__device__ __forceinline__ __half saturated_half(float v) {
    constexpr float MOST = 65504.0f;
    return __float2half_rn(v > MOST ? MOST : v < -MOST ? -MOST : v);
}

// to_half(silu(x)), the same number for every input, mostly without fp64.
//
// The fp32 estimate is within 2^-21 of silu(x) (quantized_silu() says why). Where both ends of twice that give one fp16
// number, silu(x) rounded to fp32 gives it, too. Below -80 that is -0; an infinity becomes NaN, as in silu().
__device__ __forceinline__ __half half_silu(float x) {
    if (x <= -80.0f) return __float2half_rn(x * 0.0f);
    const float estimate = x / (1.0f + expf(-x));
    const __half low = saturated_half(estimate * (1.0f - 0x1p-20f)), high = saturated_half(estimate * (1.0f + 0x1p-20f));
    return __half_as_ushort(low) == __half_as_ushort(high) ? low : saturated_half(silu_soon(x));
}

}  // namespace quamba

#endif  // __CUDACC__
