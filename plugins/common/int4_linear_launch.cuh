// Which kernel a W4A8 projection runs on, by the number of its tokens and the size of the GPU.
#pragma once

#include "gemv_launch.cuh"
#include "int4_gemv.cuh"
#include "int4_rows.cuh"

namespace quamba {

inline bool int4_aligned(const Int4Product &p) {
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(p.x) | reinterpret_cast<uintptr_t>(p.weight);
    return addresses % 16 == 0 && p.x_stride % 16 == 0;
}

template <class End>
cudaError_t launch_int4_linear(const Int4Product &p, const End &end, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const bool aligned = int4_aligned(p);
    if (takes_gemv<Int4Format, End>(p, gpu))
        return launch_gemv<Int4Format>(p, Codes{aligned}, end, aligned, gpu, stream);
    const dim3 grid((p.M + INT4_WARPS - 1) / INT4_WARPS, (p.T + INT4_TOKENS - 1) / INT4_TOKENS);
    const auto kernel = aligned ? int4_rows<End, true> : int4_rows<End, false>;
    return launch_overlapped(kernel, grid, 32 * INT4_WARPS, 0, 1, gpu, stream, p, end);
}

// NULL, or why a projection of these sizes is not supported.
inline const char *int4_linear_refusal(int64_t B, int64_t L, int64_t K, int64_t M) {
    if (K > 1 << 24 || M > 1 << 24) return "K and M must be at most 16777216";
    if (B > 65535 * INT4_TOKENS / L) return "B * L must be at most 262140";
    return nullptr;
}

}  // namespace quamba
