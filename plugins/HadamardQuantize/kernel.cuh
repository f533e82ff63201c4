// y = quantize(H x, out_scale): a token in the shared memory of one block, or of a cluster of blocks.
#pragma once

#include "../common/batches.cuh"
#include "../common/hadamard.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

template <int CLUSTER>
__global__ void __launch_bounds__(512, 2) hadamard_quantize(QuambaHadamardQuantize op) {
    extern __shared__ double entries[];
    const int64_t token = blockIdx.x / CLUSTER;
    const TokenSlice<CLUSTER> slice(int(op.size.E), int(blockIdx.x % CLUSTER));
    wait_for_inputs();
    const float *x = op.x + token * op.x_stride;
    in_batches<8>(
        slice.count, [&](int i) { return x[slice.entry(i)]; },
        [&](int i, float loaded) { entries[place(i)] = loaded; });
    let_next_kernel_begin();
    __syncthreads();
    transform_and_quantize(entries, slice, op.hadamard, op.out_scale, op.y + token * op.size.E);
}

}  // namespace quamba
