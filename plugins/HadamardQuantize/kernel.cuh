// y = quantize(H x, out_scale): one block a token, the token in shared memory.
#pragma once

#include "../common/batches.cuh"
#include "../common/hadamard.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

__global__ void __launch_bounds__(512, 2) hadamard_quantize(QuambaHadamardQuantize op) {
    extern __shared__ double entries[];
    const int E = int(op.size.E);
    const int64_t token = blockIdx.x;
    wait_for_inputs();
    const float *x = op.x + token * op.x_stride;
    in_batches<8>(
        E, [&](int e) { return x[e]; }, [&](int e, float loaded) { entries[place(e)] = loaded; });
    let_next_kernel_begin();
    __syncthreads();
    transform_and_quantize(entries, E, op.hadamard, op.out_scale, op.y + token * E);
}

}  // namespace quamba
