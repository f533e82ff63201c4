// Which kernel a projection of fp16 numbers runs on, by the number of its tokens and the size of the GPU.
#pragma once

#include "gemv_launch.cuh"
#include "half_gemm.cuh"
#include "half_gemv.cuh"

namespace quamba {

template <class Weight, class Tile, class End>
cudaError_t launch_half_tiles(const typename Weight::Product &p, const End &end, const Gpu &gpu, cudaStream_t stream) {
    const dim3 grid((p.T + Tile::BT - 1) / Tile::BT, (p.M + Tile::BM - 1) / Tile::BM);
    const int bytes = Weight::row_bytes(p.K);
    return launch_overlapped(half_gemm<Weight, End, Tile>, grid, Tile::THREADS, Tile::SHARED_BYTES, 1, gpu, stream, p,
                             end, whole_chunks(reinterpret_cast<const int8_t *>(p.x), 2 * p.x_stride, 2 * p.K),
                             whole_chunks(p.weight, bytes, bytes));
}

// Format<1> and Format<GEMV_TOKENS>: what the gemv multiplies; Weight: what the tiles do.
template <template <int> class Format, class Weight, class End>
cudaError_t launch_half_linear(const typename Weight::Product &p, const End &end, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const bool x_aligned = reinterpret_cast<uintptr_t>(p.x) % 8 == 0 && p.x_stride % 4 == 0 && p.K % 4 == 0;
    const int bytes = Weight::row_bytes(p.K);
    const bool aligned = whole_chunks(p.weight, bytes, bytes);
    if (takes_gemv<Format<1>, End>(p, gpu))
        return launch_gemv<Format<1>>(p, Halves{x_aligned}, end, aligned, gpu, stream);
    if (takes_gemv<Format<GEMV_TOKENS>, End>(p, gpu))
        return launch_gemv<Format<GEMV_TOKENS>>(p, Halves{x_aligned}, end, aligned, gpu, stream);
    const int64_t tiles = (int64_t(p.T) + HalfMany<Weight>::BT - 1) / HalfMany<Weight>::BT *
                          ((p.M + HalfMany<Weight>::BM - 1) / HalfMany<Weight>::BM);
    if (tiles < gpu.multiprocessors) return launch_half_tiles<Weight, HalfFew<Weight>>(p, end, gpu, stream);
    return launch_half_tiles<Weight, HalfMany<Weight>>(p, end, gpu, stream);
}

// What an op with int4 codes multiplies, from its call; one with int8 codes.
template <class Op>
HalfInt4Product half_int4_product(const Op &op) {
    return {static_cast<const uint16_t *>(op.x),
            op.weight,
            static_cast<const uint16_t *>(op.weight_scale),
            op.x_stride,
            int(op.size.B * op.size.L),
            int(op.size.K),
            int(op.size.M)};
}

template <class Op>
HalfInt8Product half_int8_product(const Op &op) {
    return {static_cast<const uint16_t *>(op.x),
            op.weight,
            op.x_stride,
            int(op.size.B * op.size.L),
            int(op.size.K),
            int(op.size.M)};
}

}  // namespace quamba
