// Which kernel a call of the selective scan takes, for states of every kind.
#pragma once

#include "../common/launch.cuh"
#include "kernel.cuh"
#include "prompt.cuh"
#include "step.cuh"

namespace quamba {

template <class Stored, int LANES, int N_LANE>
cudaError_t launch_lanes(const QuambaQuantizedSelectiveScan &op, const RowScales &scales,
                         cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const bool one_token = op.size.L == 1 && gpu.overlap;  // more fp64, most of it ahead of its turn
    const int threads = one_token ? SELECTIVE_STEP_THREADS : SELECTIVE_THREADS, channels = threads / LANES;
    const auto kernel =
        one_token ? selective_one_token<Stored, LANES, N_LANE> : selective_scan<Stored, LANES, N_LANE>;
    const unsigned blocks = unsigned((op.size.E + channels - 1) / channels);
    return launch_overlapped(kernel, dim3(blocks, unsigned(op.size.B)), threads, 0, 1, gpu, stream, op, scales);
}

// Blocks of four channels: 384 at mamba-130m, which leaves no SM of an H200 more than three.
using Prompt = PromptShape<4, 32, 8, 4>;
constexpr int64_t PROMPT_LENGTH = 16;  // below, the two turns before the first token count for more

template <class Stored>
cudaError_t launch_prompt(const QuambaQuantizedSelectiveScan &op, const RowScales &scales,
                          cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const unsigned blocks = unsigned((op.size.E + Prompt::CHANNELS - 1) / Prompt::CHANNELS);
    return launch_overlapped(selective_prompt<Stored, Prompt>, dim3(blocks, unsigned(op.size.B)), Prompt::THREADS,
                             sizeof(PromptShared<Prompt>), 1, gpu, stream, op, scales);
}

template <class Stored>
cudaError_t launch_state(const QuambaQuantizedSelectiveScan &op, const RowScales &scales,
                         cudaStream_t stream) {
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
