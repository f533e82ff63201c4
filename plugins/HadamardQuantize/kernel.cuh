// y = H x, quantized or as another Output writes it: a token in the shared memory of one block, for most widths in its
// registers at both ends, or in the registers of PARTS blocks, each of which makes a part of the outputs.
#pragma once

#include "../common/batches.cuh"
#include "../common/hadamard_part.cuh"
#include "../common/hadamard_whole.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

template <class Output, class Op>
__global__ void __launch_bounds__(512, 2) hadamard(Op op) {
    extern __shared__ double entries[];
    const int64_t token = blockIdx.x;
    const int E = int(op.size.E);
    wait_for_inputs();
    const float *x = op.x + token * op.x_stride;
    in_batches<8>(
        E, [&](int i) { return x[i]; }, [&](int i, float loaded) { entries[place(i)] = loaded; });
    let_next_kernel_begin();
    __syncthreads();
    transform_and_write<Output>(op, entries, E, op.hadamard,
                                static_cast<typename Output::Stored *>(op.y) + token * E);
}

template <int ITEMS, class Op, class Output>
__global__ void __launch_bounds__(1024) hadamard_part(Op op, Output scale) {
    extern __shared__ double entries[];
    const int64_t token = blockIdx.x / PARTS;
    const TokenPart part(int(op.size.E), int(blockIdx.x % PARTS));
    let_next_kernel_begin();
    wait_for_inputs();
    float x[ITEMS][PARTS];
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        load_position(x[item], op.x + token * op.x_stride, position_of(item, part), part);
    }
    double folded[ITEMS];
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        double v[PARTS];
#pragma unroll
        for (int c = 0; c < PARTS; c++) v[c] = x[item][c];
        folded[item] = fold_position(v, part.part);
    }
    transform_part(folded, entries, part, scale, static_cast<typename Output::Stored *>(op.y) + token * op.size.E);
}

template <int RADIX, class Op, class Output>
__global__ void __launch_bounds__(1024) hadamard_whole(Op op, Output scale) {
    extern __shared__ double entries[];
    const int64_t token = blockIdx.x;
    const WholeToken<RADIX> whole(int(op.size.E));
    let_next_kernel_begin();
    wait_for_inputs();
    float x[RADIX];
    load_group(x, op.x + token * op.x_stride, int(threadIdx.x), whole);
    double held[RADIX];
#pragma unroll
    for (int k = 0; k < RADIX; k++) held[k] = x[k];
    transform_whole(held, entries, whole, scale, static_cast<typename Output::Stored *>(op.y) + token * op.size.E);
}

}  // namespace quamba
