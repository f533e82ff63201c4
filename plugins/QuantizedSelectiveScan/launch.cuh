// Which kernel a call of the selective scan takes, for states of every kind.
#pragma once

#include "../common/launch.cuh"
#include "kernel.cuh"
#include "prompt.cuh"
#include "step.cuh"

namespace quamba {

template <class Stored, int LANES, int N_LANE, class Op>
cudaError_t launch_lanes(const Op &op, const RowScales &scales, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const bool one_token = op.size.L == 1 && gpu.overlap;  // more fp64, most of it ahead of its turn
    const int threads = one_token ? SELECTIVE_STEP_THREADS : SELECTIVE_THREADS, channels = threads / LANES;
    const auto kernel =
        one_token ? selective_one_token<Stored, LANES, N_LANE, Op> : selective_scan<Stored, LANES, N_LANE, Op>;
    const unsigned blocks = unsigned((op.size.E + channels - 1) / channels);
    return launch_overlapped(kernel, dim3(blocks, unsigned(op.size.B)), threads, 0, 1, gpu, stream, op, scales);
}

// The fastest two of 27 on an H200 (docs/gpu-results.md): wide blocks where all fit beside one another, one an SM.
using WidePrompt = PromptShape<12, 32, 8, 1>;
using Prompt = PromptShape<8, 32, 8, 3>;
constexpr int64_t PROMPT_LENGTH = 32;  // below, most of the one tile is empty

template <class Shape, class Op>
int64_t channel_blocks(const Op &op) {
    return (op.size.E + Shape::CHANNELS - 1) / Shape::CHANNELS;
}

template <class Stored, class Shape, class Op>
cudaError_t launch_shape(const Op &op, const RowScales &scales, const Gpu &gpu, cudaStream_t stream) {
    const dim3 grid(unsigned(channel_blocks<Shape>(op)), unsigned(op.size.B));
    return launch_overlapped(selective_prompt<Stored, Shape, Op>, grid, Shape::THREADS, sizeof(PromptShared<Op, Shape>), 1,
                             gpu, stream, op, scales);
}

template <class Stored, class Op>
cudaError_t launch_prompt(const Op &op, const RowScales &scales, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const bool wide = channel_blocks<WidePrompt>(op) * op.size.B <= gpu.multiprocessors &&
                      sizeof(PromptShared<Op, WidePrompt>) <= size_t(gpu.shared_bytes);
    return wide ? launch_shape<Stored, WidePrompt>(op, scales, gpu, stream)
                : launch_shape<Stored, Prompt>(op, scales, gpu, stream);
}

template <class Stored, class Op>
cudaError_t launch_state(const Op &op, const RowScales &scales, cudaStream_t stream) {
    if (op.size.N <= 16 && op.size.L >= PROMPT_LENGTH) return launch_prompt<Stored>(op, scales, stream);
    if (op.size.N <= 16) return launch_lanes<Stored, 16, 1>(op, scales, stream);
    if (op.size.N <= 32) return launch_lanes<Stored, 32, 1>(op, scales, stream);
    if (op.size.N <= 64) return launch_lanes<Stored, 32, 2>(op, scales, stream);
    if (op.size.N <= 128) return launch_lanes<Stored, 32, 4>(op, scales, stream);
    return launch_lanes<Stored, 32, 8>(op, scales, stream);
}

inline const char *selective_refusal(int64_t B, int64_t N) {
    if (N > 256) return "N, the state size, must be at most 256";
    if (B > 65535) return "B, the batch, must be at most 65535";
    return nullptr;
}

}  // namespace quamba
