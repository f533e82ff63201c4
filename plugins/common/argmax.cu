// Greedy sampling where the logits are: a plain C function beside the ops, for the runtime.
#include "argmax.cuh"

#include <cuda_runtime.h>

#include "launch.cuh"

// logits: (batch, vocabulary) fp32 on the device, rows `stride` elements apart. tokens: (batch) int64 on the
// device, the index of each row's largest logit, the lowest of several; -1 - index where that logit is NaN
// (the first NaN counts as the largest) or infinite. Returns a cudaError_t; queues one kernel, which a graph
// may capture. batch is at most 65535, vocabulary 2^30.
extern "C" __attribute__((visibility("default"))) int quamba_argmax(const float *logits, int64_t batch,
                                                                    int64_t vocabulary, int64_t stride,
                                                                    int64_t *tokens, cudaStream_t stream) {
    using namespace quamba;
    if (batch < 1 || batch > 65535 || vocabulary < 1 || vocabulary > 1 << 30 || stride < vocabulary)
        return cudaErrorInvalidValue;
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const bool aligned = reinterpret_cast<uintptr_t>(logits) % 16 == 0 && stride % 4 == 0;
    // a row is shared out to a cluster; without clusters (up to sm_89) a block has it to itself, which is a
    // hundredth of the time that such a GPU takes for the logits
    const int blocks = gpu.clusters ? 8 : 1;
    return launch_overlapped(argmax, dim3(blocks, unsigned(batch)), ARGMAX_THREADS, 0, blocks, gpu, stream,
                             logits, vocabulary, stride, tokens, aligned);
}
