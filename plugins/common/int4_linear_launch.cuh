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

// Tiles for the GPU's multiprocessors, each of which has room for a few blocks.
template <class Tile>
double tiles_each(const Int4Product &p, const Gpu &gpu) {
    const int64_t by_tokens = (int64_t(p.T) + Tile::BT - 1) / Tile::BT, by_rows = (p.M + Tile::BM - 1) / Tile::BM;
    return double(by_tokens * by_rows) / gpu.multiprocessors;
}

//                            tokens, rows, warps (a group each), stages, blocks on one SM
using Int4Few = FewTile<16, 32, 4, 3, 4>;
using Int4Some = FewTile<32, 32, 4, 2, 3>;
//                            tokens, rows, warps by tokens and by rows, stages, blocks on one SM
using Int4Low = GemmTile<64, 32, 2, 2, 6, 3, GROUP_BYTES>;
using Int4Square = GemmTile<64, 64, 1, 4, 4, 3, GROUP_BYTES>;
using Int4Many = GemmTile<64, 64, 2, 2, 4, 3, GROUP_BYTES>;

// As measured on an H200 (docs/gpu-results.md): warps share groups out while there are fewer tiles than multiprocessors.
// All fit into the 99 KiB of a block on sm_86 and sm_89.
template <class End>
cudaError_t launch_int4_tiles(const Int4Product &p, const End &end, const Gpu &gpu, cudaStream_t stream) {
    if (p.T <= 32 || (p.T <= 64 && tiles_each<Int4Low>(p, gpu) < 2))
        return launch_tiles<Int4Few>(int4_gemm_few<End, Int4Few>, p, end, gpu, stream);
    if (p.T <= 64) return launch_tiles<Int4Low>(int4_gemm<End, Int4Low>, p, end, gpu, stream);
    const double tiles = tiles_each<Int4Square>(p, gpu);
    if (tiles < 1) return launch_tiles<Int4Some>(int4_gemm_few<End, Int4Some>, p, end, gpu, stream);
    if (tiles < 3) return launch_tiles<Int4Square>(int4_gemm<End, Int4Square>, p, end, gpu, stream);
    return launch_tiles<Int4Many>(int4_gemm<End, Int4Many>, p, end, gpu, stream);
}

template <class End>
cudaError_t launch_int4_linear(const Int4Product &p, const End &end, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    if (!takes_gemv<Int4Format, End>(p, gpu)) return launch_int4_tiles(p, end, gpu, stream);
    return launch_gemv<Int4Format>(p, Codes{whole_chunks(p.x, p.x_stride, p.K)}, end,
                                   whole_chunks(p.weight, p.K / 2, p.K / 2), gpu, stream);
}

// NULL, or why a projection of these sizes is not supported.
inline const char *int4_linear_refusal(int64_t B, int64_t L, int64_t K, int64_t M) {
    if (K > 1 << 24) return "K must be at most 16777216";
    if (M > 65535 * 32) return "M must be at most 2097120";
    if (B > INT32_MAX / 16 / L) return "B * L must be at most 134217727";
    return nullptr;
}

}  // namespace quamba
