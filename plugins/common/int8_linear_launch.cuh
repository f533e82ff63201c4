// Which kernel an int8 projection runs on, by the number of its tokens and the size of the GPU.
#pragma once

#include "gemv_launch.cuh"
#include "int8_gemm.cuh"
#include "int8_gemv.cuh"

namespace quamba {

template <class Tile>
int64_t tile_count(const Int8Product &p) {
    return (int64_t(p.T) + Tile::BT - 1) / Tile::BT * ((p.M + Tile::BM - 1) / Tile::BM);
}

// Parts to cut K into so that the tiles fill the GPU, each two stages long or more; 1 without clusters.
template <class Tile>
int gemm_splits(const Int8Product &p, const Gpu &gpu, int most = 8) {
    int splits = 1;
    while (gpu.clusters && splits < most &&
           2 * splits * tile_count<Tile>(p) <= Tile::BLOCKS * gpu.multiprocessors &&
           4 * splits * GEMM_COLUMNS <= p.K) {
        splits *= 2;
    }
    return splits;
}

template <class Tile, class End>
cudaError_t launch_gemm(const Int8Product &p, const End &end, int splits, const Gpu &gpu,
                        cudaStream_t stream) {
    const dim3 grid((p.T + Tile::BT - 1) / Tile::BT * splits, (p.M + Tile::BM - 1) / Tile::BM);
    return launch_overlapped(int8_gemm<End, Tile>, grid, Tile::THREADS, Tile::SHARED_BYTES, splits, gpu,
                             stream, p, end, splits, whole_chunks(p.x, p.x_stride, p.K),
                             whole_chunks(p.weight, p.K, p.K));
}

//                              tokens, rows, warps by tokens and by rows, stages, blocks on one SM
using FewTokens = GemmTile<16, 64, 1, 4, 4, 4>;
using SomeTokens = GemmTile<32, 64, 1, 4, 4, 4>;
using MediumTile = GemmTile<64, 64, 2, 4, 4, 3>;
using LargeTile = GemmTile<128, 128, 2, 4, 3, 2>;

template <class End>
cudaError_t launch_int8_linear(const Int8Product &p, const End &end, const Gpu &gpu, cudaStream_t stream) {
    if (takes_gemv<Int8Format, End>(p, gpu)) {
        return launch_gemv<Int8Format>(p, Codes{whole_chunks(p.x, p.x_stride, p.K)}, end,
                                       whole_chunks(p.weight, p.K, p.K), gpu, stream);
    }
    if (p.T <= 16) return launch_gemm<FewTokens>(p, end, gemm_splits<FewTokens>(p, gpu), gpu, stream);
    if (p.T <= 32) return launch_gemm<SomeTokens>(p, end, gemm_splits<SomeTokens>(p, gpu), gpu, stream);
    if (p.T <= 64) return launch_gemm<MediumTile>(p, end, gemm_splits<MediumTile>(p, gpu), gpu, stream);
    const int64_t large_tiles = tile_count<LargeTile>(p);
    if (large_tiles >= gpu.multiprocessors) return launch_gemm<LargeTile>(p, end, 1, gpu, stream);
    if (2 * large_tiles >= gpu.multiprocessors) {
        return launch_gemm<LargeTile>(p, end, gemm_splits<LargeTile>(p, gpu, 2), gpu, stream);
    }
    const int most = tile_count<MediumTile>(p) >= 64 ? 2 : 4;
    return launch_gemm<MediumTile>(p, end, gemm_splits<MediumTile>(p, gpu, most), gpu, stream);
}

// NULL, or why a projection of these sizes is not supported. B or L of 1 stand for any.
inline const char *int8_linear_refusal(int64_t B, int64_t L, int64_t K, int64_t M) {
    if (B < 1 || L < 1 || K < 1 || M < 1) return "B, L, K and M must be at least 1";
    if (K > LARGEST_K) return "K must be at most 131071: a longer sum of products does not fit into int32";
    if (M > 65535 * 64) return "M must be at most 4194240";
    if (B > INT32_MAX / 16 / L) return "B * L must be at most 134217727";
    return nullptr;
}

}  // namespace quamba
