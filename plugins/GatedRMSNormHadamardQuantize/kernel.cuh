// y = H (norm(x silu(z)) norm_weight), quantized or as another Output writes it: a token in the shared memory of one block,
// for most widths in its registers at both ends, or in the registers of PARTS blocks, each of which makes a part of the
// outputs.
//
// silu of a gate code is one of 256 numbers, found once a block. The norm runs over n_groups groups of E /
// n_groups channels; each group's sum of squares is shared out to `parts` warps, the sums in fp64.
#pragma once

#include "../common/batches.cuh"
#include "../common/block.cuh"
#include "../common/hadamard_part.cuh"
#include "../common/hadamard_whole.cuh"
#include "../common/overlap.cuh"
#include "contracts.h"

namespace quamba {

constexpr int MOST_GROUPS = 256;
constexpr int SMALL_BLOCK = 320;  // threads for E up to 5120, of which two blocks find 96 registers a thread

// Warps of a block that share one group's sum of squares.
QUAMBA_HOST_DEVICE constexpr int group_parts(int groups, int threads) {
    return groups < threads / 32 ? threads / 32 / groups : 1;
}

// silu of what an element of z stands for, by a table. HalfGate is another.
struct CodeGate {
    using Element = int8_t;
    static constexpr int SIZE = 256;
    float of[SIZE];

    template <class Op>
    __device__ __forceinline__ void set(const Op &op, int i) {
        of[i] = silu(dequantized(static_cast<int8_t>(i - 128), op.z_scale));
    }

    __device__ __forceinline__ float operator()(int8_t z) const { return of[z + 128]; }
};

template <class Gate, class Op>
__device__ void fill_gate(Gate &gate, const Op &op) {
    for (int i = threadIdx.x; i < Gate::SIZE; i += blockDim.x) gate.set(op, i);
}

// root (n_groups): the root mean square of each group of gated(i). partial: shared memory of (n_groups, parts)
// sums of squares. The block is in step after.
template <class Gated>
__device__ void group_roots(Root *root, double *partial, int groups, int group_width, float epsilon,
                            Gated gated) {
    const int lane = threadIdx.x % 32, parts = group_parts(groups, int(blockDim.x));
    for (int part = threadIdx.x / 32; part < groups * parts; part += blockDim.x / 32) {
        const int first = part / parts * group_width;
        const int begin = first + part % parts * group_width / parts;
        const int end = first + (part % parts + 1) * group_width / parts;
        double sum = 0.0;
        for (int i = begin + lane; i < end; i += 32) {
            const double value = gated(i);
            sum = fma(value, value, sum);
        }
        sum = wide_lane_sum(sum);
        if (lane == 0) partial[part] = sum;
    }
    __syncthreads();
    for (int group = threadIdx.x; group < groups; group += blockDim.x) {
        double total = 0.0;
        for (int part = 0; part < parts; part++) total += partial[group * parts + part];
        root[group] = Root::of(root_mean_square(total, group_width, epsilon));
    }
    __syncthreads();
}

// gated = x gate(z) of this thread's positions; returns their sum of squares. The gate need not be complete.
template <int ITEMS, class Gate>
__device__ __forceinline__ double gate_positions(float (&gated)[ITEMS][PARTS], const float *x,
                                                 const typename Gate::Element *z, const Gate &gate,
                                                 const TokenPart &part) {
    double sum = 0.0;
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        typename Gate::Element code[PARTS];
        load_position(gated[item], x, position_of(item, part), part);
        load_position(code, z, position_of(item, part), part);
        if (item == 0) __syncthreads();
        double squares = 0.0;
#pragma unroll
        for (int c = 0; c < PARTS; c++) {
            gated[item][c] = gated[item][c] * gate(code[c]);
            const double value = gated[item][c];
            squares = fma(value, value, squares);
        }
        if (threadIdx.x + item * blockDim.x < part.count) sum += squares;
    }
    return sum;
}

// normed = gated / root * weight. root_of(c): of the group of entry c.
template <int COUNT, class RootOf>
__device__ __forceinline__ void norm_entries(double (&normed)[COUNT], const float (&gated)[COUNT],
                                             const float (&weight)[COUNT], RootOf root_of) {
    float quotient[COUNT];
    bool divides = true;
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        const Root root = root_of(c);
        quotient[c] = root.divide(gated[c]);
        divides = divides && root.divides(gated[c]);
    }
    if (!divides) {
#pragma unroll
        for (int c = 0; c < COUNT; c++) quotient[c] = gated[c] / root_of(c).value;
    }
#pragma unroll
    for (int c = 0; c < COUNT; c++) normed[c] = quotient[c] * weight[c];
}

template <class Element>
struct Gated {
    float x;
    Element z;
};

template <class Gate, class Output, class Op>
__global__ void __launch_bounds__(512, 2) gated_norm_hadamard(Op op) {
    using Element = typename Gate::Element;
    extern __shared__ double entries[];  // the token, then n_groups * parts sums of squares
    __shared__ Gate gate;
    __shared__ Root root[MOST_GROUPS];
    const int E = int(op.size.E), groups = op.n_groups, group_width = E / groups;
    const int64_t token = blockIdx.x;

    fill_gate(gate, op);
    wait_for_inputs();
    __syncthreads();
    const float *x = op.x + token * op.x_stride;
    const Element *z = static_cast<const Element *>(op.z) + token * op.z_stride;
    in_batches<8>(
        E, [&](int i) { return Gated<Element>{x[i], z[i]}; },
        [&](int i, Gated<Element> loaded) { entries[place(i)] = loaded.x * gate(loaded.z); });
    let_next_kernel_begin();
    __syncthreads();
    group_roots(root, entries + place(E) + 1, groups, group_width, op.epsilon,
                [&](int i) { return entries[place(i)]; });
    in_batches<8>(
        E, [&](int i) { return op.norm_weight[i]; },
        [&](int i, float weight) {
            const float gated = static_cast<float>(entries[place(i)]);
            entries[place(i)] = gated / root[groups == 1 ? 0 : i / group_width].value * weight;
        });
    __syncthreads();
    transform_and_write<Output>(op, entries, E, op.hadamard,
                                static_cast<typename Output::Stored *>(op.y) + token * E);
}

template <class Gate, int ITEMS, class Op, class Output>
__global__ void __launch_bounds__(1024) gated_norm_hadamard_part(Op op, Output scale) {
    using Element = typename Gate::Element;
    extern __shared__ double entries[];  // the part's, then n_groups * parts sums of squares
    __shared__ Gate gate;
    __shared__ Root root[MOST_GROUPS];
    const int E = int(op.size.E), groups = op.n_groups, group_width = E / groups;
    const int64_t token = blockIdx.x / PARTS;
    const TokenPart part(E, int(blockIdx.x % PARTS));

    const Divisor by_group_width(group_width);
    const float *x = op.x + token * op.x_stride;
    const Element *z = static_cast<const Element *>(op.z) + token * op.z_stride;
    float weight[PARTS], gated[ITEMS][PARTS];
    load_position(weight, op.norm_weight, position_of(0, part), part);
    fill_gate(gate, op);
    wait_for_inputs();
    let_next_kernel_begin();
    const double squares = gate_positions(gated, x, z, gate, part);
    Root only = {};
    if (groups == 1) {
        only = Root::of(root_mean_square(block_sum(squares), E, op.epsilon));
    } else {
        group_roots(root, entries + place(part.count) + 1, groups, group_width, op.epsilon,
                    [&](int i) { return x[i] * gate(z[i]); });
    }
    double folded[ITEMS];
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
        const int p = position_of(item, part);
        if (item > 0) load_position(weight, op.norm_weight, p, part);
        const auto root_of = [&](int c) { return root[by_group_width.divide(part.entry(p, c))]; };
        double normed[PARTS];
        if (groups == 1) {
            norm_entries(normed, gated[item], weight, [&](int) { return only; });
        } else {
            norm_entries(normed, gated[item], weight, root_of);
        }
        folded[item] = fold_position(normed, part.part);
    }
    transform_part(folded, entries, part, scale, static_cast<typename Output::Stored *>(op.y) + token * E);
}

// THREADS: the most of a block; BLOCKS: the fewest that a multiprocessor has room for.
template <class Gate, int RADIX, int THREADS, int BLOCKS, class Op, class Output>
__global__ void __launch_bounds__(THREADS, BLOCKS) gated_norm_hadamard_whole(Op op, Output scale) {
    using Element = typename Gate::Element;
    extern __shared__ double entries[];  // the token, then n_groups * parts sums of squares
    __shared__ Gate gate;
    __shared__ Root root[MOST_GROUPS];
    const int E = int(op.size.E), groups = op.n_groups, group_width = E / groups;
    const int64_t token = blockIdx.x;
    const WholeToken<RADIX> whole(E);
    const int mine = threadIdx.x;

    fill_gate(gate, op);
    wait_for_inputs();
    let_next_kernel_begin();
    const float *x = op.x + token * op.x_stride;
    const Element *z = static_cast<const Element *>(op.z) + token * op.z_stride;
    float gated[RADIX], weight[RADIX];
    Element code[RADIX];
    load_group(gated, x, mine, whole);
    load_group(code, z, mine, whole);
    load_group(weight, op.norm_weight, mine, whole);
    __syncthreads();
    double squares = 0.0;
#pragma unroll
    for (int k = 0; k < RADIX; k++) {
        gated[k] = gated[k] * gate(code[k]);
        const double value = gated[k];
        squares = fma(value, value, squares);
    }
    double normed[RADIX];
    if (groups == 1) {
        const double sum = block_sum(mine < whole.groups() ? squares : 0.0);
        const Root only = Root::of(root_mean_square(sum, E, op.epsilon));
        norm_entries(normed, gated, weight, [&](int) { return only; });
    } else {
        group_roots(root, entries + place(E) + 1, groups, group_width, op.epsilon,
                    [&](int i) { return x[i] * gate(z[i]); });
        const Divisor by_group_width(group_width);
        const int first = whole.entry(min(mine, whole.groups() - 1));
        norm_entries(normed, gated, weight,
                     [&](int k) { return root[by_group_width.divide(first + k * whole.apart)]; });
    }
    transform_whole(normed, entries, whole, scale, static_cast<typename Output::Stored *>(op.y) + token * E);
}

}  // namespace quamba
