// y = quantize(H x, out_scale): one block a token, the token in shared memory.
#pragma once

#include "../common/hadamard.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

__global__ void __launch_bounds__(512) hadamard_quantize(QuambaHadamardQuantize op) {
    extern __shared__ double entries[];
    const int E = int(op.size.E);
    const int64_t token = blockIdx.x;
    wait_for_inputs();
    for (int e = threadIdx.x; e < E; e += blockDim.x) entries[place(e)] = op.x[token * op.x_stride + e];
    let_next_kernel_begin();
    __syncthreads();
    transform_and_quantize(entries, E, op.hadamard, op.out_scale, op.y + token * E);
}

}  // namespace quamba
