// How a convolution whose threads have one channel each is launched, for inputs of every kind.
#pragma once

#include "../common/launch.cuh"
#include "kernel.cuh"

namespace quamba {

constexpr int MOST_RUNS = 65535;  // blocks along y that a grid takes

inline unsigned blocks_of(int64_t count, int64_t each) { return unsigned((count + each - 1) / each); }

template <class Channel, int W, class Op>
cudaError_t launch_runs(const Op &op, const Gpu &gpu, cudaStream_t stream) {
    const auto kernel = op.size.L == 1 ? causal_conv<Channel, W, 1, Op> : causal_conv<Channel, W, CONV_RUN, Op>;
    const dim3 grid(blocks_of(op.size.C, CONV_THREADS), blocks_of(op.size.L, CONV_RUN), unsigned(op.size.B));
    return launch_overlapped(kernel, grid, CONV_THREADS, 0, 1, gpu, stream, op);
}

inline const char *conv_refusal(int64_t B, int64_t L, int64_t W) {
    if (W < 2 || W > 4) return "W, the width of the convolution, must be 2, 3 or 4";
    if (B > 65535) return "B, the batch, must be at most 65535";
    if (L > MOST_RUNS * CONV_RUN) return "L, the length, must be at most 1048560";
    return nullptr;
}

}  // namespace quamba
