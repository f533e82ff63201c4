// y = quantize(H (norm(x silu(z)) norm_weight), out_scale): one block a token, the token in shared memory.
//
// silu of a gate code is one of 256 numbers, found once a block. The norm runs over n_groups groups of E /
// n_groups channels; each group's sum of squares is shared out to `parts` warps, the sums in fp64.
#pragma once

#include "../common/batches.cuh"
#include "../common/block.cuh"
#include "../common/hadamard.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int MOST_GROUPS = 256;

// Warps that share one group's sum of squares.
QUAMBA_HOST_DEVICE constexpr int group_parts(int groups, int threads) {
    return groups < threads / 32 ? threads / 32 / groups : 1;
}

// partial (n_groups, parts): the fp64 sum of squares of each part of each group.
__device__ inline void group_squares(double *partial, const double *gated, int groups, int width, int parts) {
    const int lane = threadIdx.x % 32;
    for (int part = threadIdx.x / 32; part < groups * parts; part += blockDim.x / 32) {
        const int group = part / parts * width;
        const int begin = part % parts * width / parts, end = (part % parts + 1) * width / parts;
        double sum = 0.0;
        for (int i = begin + lane; i < end; i += 32) {
            const double value = gated[place(group + i)];
            sum += value * value;
        }
        sum = wide_lane_sum(sum);
        if (lane == 0) partial[part] = sum;
    }
}

struct Gated {
    float x;
    int8_t z;
};

__global__ void __launch_bounds__(512, 2)
    gated_norm_hadamard_quantize(QuambaGatedRMSNormHadamardQuantize op) {
    extern __shared__ double entries[];  // the token, then n_groups * parts sums of squares
    __shared__ float gate[256], root[MOST_GROUPS];
    const int E = int(op.size.E), groups = op.n_groups, width = E / groups;
    const int parts = group_parts(groups, int(blockDim.x));
    double *partial = entries + place(E) + 1;
    const int64_t token = blockIdx.x;

    for (int code = threadIdx.x; code < 256; code += blockDim.x) {
        gate[code] = silu(dequantized(static_cast<int8_t>(code - 128), op.z_scale));
    }
    wait_for_inputs();
    __syncthreads();
    const float *x = op.x + token * op.x_stride;
    const int8_t *z = op.z + token * op.z_stride;
    in_batches<8>(
        E, [&](int e) { return Gated{x[e], z[e]}; },
        [&](int e, Gated loaded) { entries[place(e)] = loaded.x * gate[loaded.z + 128]; });
    let_next_kernel_begin();
    __syncthreads();
    group_squares(partial, entries, groups, width, parts);
    __syncthreads();
    if (threadIdx.x < groups) {
        double total = 0.0;
        for (int part = 0; part < parts; part++) total += partial[threadIdx.x * parts + part];
        root[threadIdx.x] = root_mean_square(total, width, op.epsilon);
    }
    __syncthreads();
    in_batches<8>(
        E, [&](int e) { return op.norm_weight[e]; },
        [&](int e, float weight) {
            const float gated = static_cast<float>(entries[place(e)]);
            entries[place(e)] = gated / root[groups == 1 ? 0 : e / width] * weight;
        });
    __syncthreads();
    transform_and_quantize(entries, E, op.hadamard, op.out_scale, op.y + token * E);
}

}  // namespace quamba
