// y = quantize(H x, out_scale): one block a token, the token in shared memory.
#pragma once

#include "../common/hadamard.cuh"
#include "contracts.h"

namespace quamba {

constexpr int HADAMARD_THREADS = 256;

__global__ void __launch_bounds__(HADAMARD_THREADS) hadamard_quantize(QuambaHadamardQuantize op) {
    extern __shared__ double entries[];
    const int E = int(op.size.E);
    const int64_t token = blockIdx.x;
    for (int e = threadIdx.x; e < E; e += HADAMARD_THREADS) entries[e] = op.x[token * op.x_stride + e];
    __syncthreads();
    transform_and_quantize(entries, E, op.hadamard, op.out_scale, op.y + token * E);
}

}  // namespace quamba
