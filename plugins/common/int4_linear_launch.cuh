// Which kernel a W4A8 projection runs on, by the number of its tokens and the size of the GPU.
#pragma once

#include "gemv_launch.cuh"
#include "int4_gemm.cuh"
#include "int4_gemv.cuh"

namespace quamba {

inline bool aligned_address(const void *address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

template <class Tile, class End>
cudaError_t launch_gemm(const Int4Product &p, const End &end, const Gpu &gpu, cudaStream_t stream) {
    const dim3 grid((p.T + Tile::BT - 1) / Tile::BT, (p.M + Tile::BM - 1) / Tile::BM);
    return launch_overlapped(int4_gemm<End, Tile>, grid, Tile::THREADS, Tile::SHARED_BYTES, 1, gpu, stream, p, end,
                             aligned_address(p.x) && p.x_stride % 16 == 0, aligned_address(p.weight));
}

//                              tokens, rows, warps by tokens and by rows, stages, blocks on one SM
using Int4Few = GemmTile<16, 32, 1, 4, 8, 4, GROUP_BYTES>;
using Int4Some = GemmTile<32, 32, 2, 2, 6, 4, GROUP_BYTES>;
using Int4Small = GemmTile<64, 32, 2, 2, 6, 3, GROUP_BYTES>;
using Int4Medium = GemmTile<64, 64, 2, 2, 4, 3, GROUP_BYTES>;
using Int4Wide = GemmTile<64, 128, 1, 4, 4, 3, GROUP_BYTES>;
using Int4Large = GemmTile<128, 192, 2, 6, 4, 1, GROUP_BYTES>;

template <class End>
cudaError_t launch_int4_linear(const Int4Product &p, const End &end, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    if (takes_gemv<Int4Format, End>(p, gpu)) {
        const bool aligned = aligned_address(p.weight);
        return launch_gemv<Int4Format>(p, Codes{aligned_address(p.x) && p.x_stride % 16 == 0}, end, aligned, gpu, stream);
    }
    if (p.K == 1) return launch_gemm<Int4Small>(p, end, gpu, stream);
    if (p.K == 2) return launch_gemm<Int4Medium>(p, end, gpu, stream);
    if (p.K == 3) return launch_gemm<Int4Large>(p, end, gpu, stream);
    if (p.T <= 16) return launch_gemm<Int4Few>(p, end, gpu, stream);
    if (p.T <= 32) return launch_gemm<Int4Some>(p, end, gpu, stream);
    return launch_gemm<Int4Wide>(p, end, gpu, stream);
}

// NULL, or why a projection of these sizes is not supported.
inline const char *int4_linear_refusal(int64_t B, int64_t L, int64_t K, int64_t M) {
    if (K > 1 << 24) return "K must be at most 16777216";
    if (M > 65535 * 32) return "M must be at most 2097120";
    if (B > INT32_MAX / 16 / L) return "B * L must be at most 134217727";
    return nullptr;
}

}  // namespace quamba
