// y = quantize(H (norm(x silu(z)) norm_weight), out_scale): a token in the shared memory of one block, or of a
// cluster of blocks.
//
// silu of a gate code is one of 256 numbers, found once a block. The norm runs over n_groups groups of E /
// n_groups channels; each group's sum of squares is shared out to `parts` warps a block, the sums in fp64.
#pragma once

#include "../common/batches.cuh"
#include "../common/block.cuh"
#include "../common/hadamard.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int MOST_GROUPS = 256;

// Warps of a block that share one group's sum of squares.
QUAMBA_HOST_DEVICE constexpr int group_parts(int groups, int threads) {
    return groups < threads / 32 ? threads / 32 / groups : 1;
}

// partial (n_groups, parts): the fp64 sum of squares of each part of what the block holds of each group.
template <int CLUSTER>
__device__ void group_squares(double *partial, const double *gated, const TokenSlice<CLUSTER> &slice, int groups,
                              int group_width, int parts) {
    const int lane = threadIdx.x % 32;
    for (int part = threadIdx.x / 32; part < groups * parts; part += blockDim.x / 32) {
        const int first = slice.before(part / parts * group_width);
        const int count = slice.before((part / parts + 1) * group_width) - first;
        const int begin = first + part % parts * count / parts, end = first + (part % parts + 1) * count / parts;
        double sum = 0.0;
        for (int i = begin + lane; i < end; i += 32) {
            const double value = gated[place(i)];
            sum += value * value;
        }
        sum = wide_lane_sum(sum);
        if (lane == 0) partial[part] = sum;
    }
}

// root (n_groups): the root mean square of each group over the whole token, from the partial sums of the block
// and, through `shared_sums` (CLUSTER, n_groups), those of the others. The block is in step after; the cluster's
// barrier was arrived at before.
template <int CLUSTER>
__device__ void group_roots(float *root, double *shared_sums, const double *partial, int groups, int parts,
                            int group_width, float epsilon) {
    if (CLUSTER > 1) {
        wait_at_cluster_barrier();  // all have begun
        for (int i = threadIdx.x; i < groups * CLUSTER; i += blockDim.x) {
            const int group = i / CLUSTER;
            double sum = 0.0;
            for (int part = 0; part < parts; part++) sum += partial[group * parts + part];
            double *own = shared_sums + blockIdx.x % CLUSTER * groups + group;
            store_double_to_block(shared_address(own), i % CLUSTER, sum);
        }
        synchronize_cluster();
    }
    const int sums = CLUSTER > 1 ? CLUSTER : parts;
    for (int group = threadIdx.x; group < groups; group += blockDim.x) {
        double total = 0.0;
        for (int i = 0; i < sums; i++)
            total += CLUSTER > 1 ? shared_sums[i * groups + group] : partial[group * parts + i];
        root[group] = root_mean_square(total, group_width, epsilon);
    }
    __syncthreads();
}

struct Gated {
    float x;
    int8_t z;
};

template <int CLUSTER>
__global__ void __launch_bounds__(512, 2)
    gated_norm_hadamard_quantize(QuambaGatedRMSNormHadamardQuantize op) {
    extern __shared__ double entries[];  // the slice, n_groups * parts sums of squares, then the cluster's
    __shared__ float gate[256], root[MOST_GROUPS];
    const int E = int(op.size.E), groups = op.n_groups, group_width = E / groups;
    const int parts = group_parts(groups, int(blockDim.x));
    const TokenSlice<CLUSTER> slice(E, int(blockIdx.x % CLUSTER));
    double *partial = entries + place(slice.count) + 1, *shared_sums = partial + groups * parts;
    const int64_t token = blockIdx.x / CLUSTER;

    if (CLUSTER > 1) arrive_at_cluster_barrier();
    for (int code = threadIdx.x; code < 256; code += blockDim.x) {
        gate[code] = silu(dequantized(static_cast<int8_t>(code - 128), op.z_scale));
    }
    wait_for_inputs();
    __syncthreads();
    const float *x = op.x + token * op.x_stride;
    const int8_t *z = op.z + token * op.z_stride;
    in_batches<8>(
        slice.count, [&](int i) { return Gated{x[slice.entry(i)], z[slice.entry(i)]}; },
        [&](int i, Gated loaded) { entries[place(i)] = loaded.x * gate[loaded.z + 128]; });
    let_next_kernel_begin();
    __syncthreads();
    group_squares(partial, entries, slice, groups, group_width, parts);
    __syncthreads();
    group_roots<CLUSTER>(root, shared_sums, partial, groups, parts, group_width, op.epsilon);
    in_batches<8>(
        slice.count, [&](int i) { return op.norm_weight[slice.entry(i)]; },
        [&](int i, float weight) {
            const float gated = static_cast<float>(entries[place(i)]);
            entries[place(i)] = gated / root[groups == 1 ? 0 : slice.entry(i) / group_width] * weight;
        });
    __syncthreads();
    transform_and_quantize(entries, slice, op.hadamard, op.out_scale, op.y + token * E);
}

}  // namespace quamba
