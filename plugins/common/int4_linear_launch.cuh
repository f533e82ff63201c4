// Which kernel a W4A8 projection runs on, by the number of its tokens and the size of the GPU.
#pragma once

#include "gemv_launch.cuh"
#include "int4_gemm_few.cuh"
#include "int4_gemv.cuh"

namespace quamba {

template <class Tile, class Kernel, class End>
cudaError_t launch_tiles(Kernel kernel, const Int4Product &p, const End &end, const Gpu &gpu, cudaStream_t stream) {
    const dim3 grid((p.T + Tile::BT - 1) / Tile::BT, (p.M + Tile::BM - 1) / Tile::BM);
    return launch_overlapped(kernel, grid, Tile::THREADS, Tile::SHARED_BYTES, 1, gpu, stream, p, end,
                             whole_chunks(p.x, p.x_stride, p.K), whole_chunks(p.weight, p.K / 2, p.K / 2));
}

//                             tokens, rows, warps (a group each), stages, blocks on one SM
using Int4FewTokens = FewTile<16, 32, 4, 4, 3>;
using Int4SomeTokens = FewTile<32, 32, 4, 3, 2>;
//                              tokens, rows, warps by tokens and by rows, stages, blocks on one SM
using Int4Medium = GemmTile<64, 64, 1, 4, 4, 3, GROUP_BYTES>;
using Int4Wide = GemmTile<64, 128, 1, 4, 4, 3, GROUP_BYTES>;

template <class End>
cudaError_t launch_int4_linear(const Int4Product &p, const End &end, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    if (takes_gemv<Int4Format, End>(p, gpu)) {
        return launch_gemv<Int4Format>(p, Codes{whole_chunks(p.x, p.x_stride, p.K)}, end,
                                       whole_chunks(p.weight, p.K / 2, p.K / 2), gpu, stream);
    }
    if (p.T <= 16) return launch_tiles<Int4FewTokens>(int4_gemm_few<End, Int4FewTokens>, p, end, gpu, stream);
    if (p.T <= 64) return launch_tiles<Int4SomeTokens>(int4_gemm_few<End, Int4SomeTokens>, p, end, gpu, stream);
    return launch_tiles<Int4Medium>(int4_gemm<End, Int4Medium>, p, end, gpu, stream);
}

// NULL, or why a projection of these sizes is not supported.
inline const char *int4_linear_refusal(int64_t B, int64_t L, int64_t K, int64_t M) {
    if (K > 1 << 24) return "K must be at most 16777216";
    if (M > 65535 * 32) return "M must be at most 2097120";
    if (B > INT32_MAX / 16 / L) return "B * L must be at most 134217727";
    return nullptr;
}

}  // namespace quamba
