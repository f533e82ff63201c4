// Launches the kernel of gemv.cuh where it fits.
#pragma once

#include "gemv.cuh"
#include "launch.cuh"

namespace quamba {

// Steps ahead; 0 where the tokens are too many or too long for it.
template <class Format, class End>
int gemv_depth(const typename Format::Product &p, const Gpu &gpu) {
    return gemv_depth<Format>(p.K, p.M, p.T, gpu.multiprocessors, gpu.shared_bytes, End::DEPTH);
}

template <class Format, class End>
bool takes_gemv(const typename Format::Product &p, const Gpu &gpu) {
    return gemv_depth<Format, End>(p, gpu) > 0;
}

template <class Format, int DEPTH, class Source, class End>
cudaError_t launch_gemv_depth(const typename Format::Product &p, const Source &source, const End &end, bool aligned,
                              const Gpu &gpu, cudaStream_t stream) {
    const GemvShape shape = gemv_shape<Format>(p.K, p.M, p.T, gpu.multiprocessors);
    const auto kernel = aligned ? gemv<Format, Source, End, true, DEPTH> : gemv<Format, Source, End, false, DEPTH>;
    return launch_overlapped(kernel, dim3((p.M + shape.rows - 1) / shape.rows), GEMV_THREADS,
                             size_t(GemvShared<Format>(p.K, p.T, shape, DEPTH).bytes()), 1, gpu, stream, p, source,
                             end, shape);
}

// Of what takes_gemv. aligned: the rows of the weight begin on 16 bytes.
template <class Format, class Source, class End>
cudaError_t launch_gemv(const typename Format::Product &p, const Source &source, const End &end, bool aligned,
                        const Gpu &gpu, cudaStream_t stream) {
    return gemv_depth<Format, End>(p, gpu) == End::DEPTH
               ? launch_gemv_depth<Format, End::DEPTH>(p, source, end, aligned, gpu, stream)
               : launch_gemv_depth<Format, Format::SMALL_DEPTH>(p, source, end, aligned, gpu, stream);
}

}  // namespace quamba
