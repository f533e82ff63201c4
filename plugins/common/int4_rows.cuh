// W4A8 projections of many tokens: a warp a row of the weight, for a few tokens at a time.
#pragma once

#include <cuda_fp16.h>

#include "int4_linear.cuh"
#include "overlap.cuh"
#include "wide_loads.cuh"

namespace quamba {

constexpr int INT4_WARPS = 4;   // rows of a block
constexpr int INT4_TOKENS = 4;  // that one reading of a row serves

#ifdef __CUDACC__

template <bool ALIGNED>
__device__ __forceinline__ uint4 activations(const int8_t *x) {
    return ALIGNED ? *reinterpret_cast<const uint4 *>(x) : load_codes(x, 16);
}

// Sixteen times the integer sum of a chunk.
template <bool ALIGNED>
__device__ __forceinline__ int32_t chunk_total(const uint4 &codes, const int8_t *x) {
    const uint4 low = activations<ALIGNED>(x), high = activations<ALIGNED>(x + INT4_CHUNK / 2);
    int32_t total = product_of_codes(codes.x, low.x, high.x, 0);
    total = product_of_codes(codes.y, low.y, high.y, total);
    total = product_of_codes(codes.z, low.z, high.z, total);
    return product_of_codes(codes.w, low.w, high.w, total);
}

// A lane has a chunk, four lanes a group; every lane adds the eight groups of a step in their order.
template <class End, bool ALIGNED>
__global__ void __launch_bounds__(32 * INT4_WARPS) int4_rows(Int4Product p, End end) {
    wait_for_inputs();
    const int lane = threadIdx.x % 32, m = blockIdx.x * INT4_WARPS + threadIdx.x / 32;
    const int first = blockIdx.y * INT4_TOKENS, chunks = p.chunks(), groups = p.groups();
    if (m >= p.M) return;  // a whole warp
    const int8_t *row = p.weight + int64_t(m) * chunks * (INT4_CHUNK / 2);
    const __half *scales = reinterpret_cast<const __half *>(p.weight_scale) + int64_t(m) * groups;
    float sums[INT4_TOKENS] = {};
    for (int begin = 0; begin < chunks; begin += 32) {
        const int chunk = begin + lane, group = chunk / INT4_GROUP_CHUNKS;
        const bool inside = chunk < chunks;
        uint4 codes = {};
        if (inside) codes = ALIGNED ? load_streamed(row + chunk * 16) : load_codes(row + chunk * 16, 16);
        const float scale = group < groups ? __half2float(scales[group]) : 0.0f;
#pragma unroll
        for (int t = 0; t < INT4_TOKENS; t++) {
            if (first + t >= p.T) continue;
            const int8_t *x = p.x + (first + t) * p.x_stride + int64_t(chunk) * INT4_CHUNK;
            int32_t total = inside ? chunk_total<ALIGNED>(codes, x) : 0;
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            const float part = group_part(total, scale);
#pragma unroll
            for (int g = 0; g < 32; g += INT4_GROUP_CHUNKS) sums[t] += __shfl_sync(~0u, part, g);
        }
    }
#pragma unroll
    for (int t = 0; t < INT4_TOKENS; t++) {
        if (lane == t && first + t < p.T)
            end.y[int64_t(first + t) * p.M + m] = end.value(sums[t], end.row(m), end.load(first + t, m));
    }
}

#endif  // __CUDACC__

}  // namespace quamba
