// Which kernel a gated norm takes, for gates and outputs of every kind.
#pragma once

#include "../common/hadamard_launch.cuh"
#include "kernel.cuh"

namespace quamba {

// Shared memory of any block: the gate's table and the groups' roots; and of block_sum(), where a kernel takes it.
constexpr int64_t TABLE_BYTES = sizeof(CodeGate) + sizeof(Root) * MOST_GROUPS, SUM_BYTES = sizeof(double) * 32;

// Shared memory of a block that holds `count` entries.
inline int64_t gated_bytes(int64_t count, int groups, int threads) {
    return entries_bytes(count) + int64_t(sizeof(double)) * groups * group_parts(groups, threads);
}

template <class Gate, class Output, int RADIX, class Op>
auto whole_kernel(int threads) {
    return threads <= SMALL_BLOCK ? gated_norm_hadamard_whole<Gate, RADIX, SMALL_BLOCK, 2, Op, Output>
                                  : gated_norm_hadamard_whole<Gate, RADIX, 1024, 1, Op, Output>;
}

// Gate: its table is no larger than CodeGate.
template <class Gate, class Output, class Op>
cudaError_t launch_gated(const Op &op, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int64_t tokens = op.size.B * op.size.L, E = op.size.E, count = E / PARTS;
    if (part_a_token(tokens, E, op.hadamard, gpu)) {
        const auto kernel = part_items(count) == 1 ? gated_norm_hadamard_part<Gate, 1, Op, Output>
                                                   : gated_norm_hadamard_part<Gate, 2, Op, Output>;
        return launch_parts(kernel, op, tokens, gated_bytes(count, op.n_groups, part_threads(count)), gpu, stream);
    }
    if (takes_whole(E, op.hadamard, op.y)) {
        const int threads = whole_threads(int(E));
        const auto kernel = first_radix(hadamard_shape(int(E))) == 16 ? whole_kernel<Gate, Output, 16, Op>(threads)
                                                                      : whole_kernel<Gate, Output, 8, Op>(threads);
        const int64_t bytes = gated_bytes(E, op.n_groups, threads);
        // the kernel below needs a little less: E 11520 fits into the 99 KB of sm_86 and sm_89 only there
        if (bytes + TABLE_BYTES + SUM_BYTES <= gpu.shared_bytes) {
            return launch_whole(kernel, op, tokens, bytes, gpu, stream);
        }
    }
    const int threads = token_threads(E);
    return launch_overlapped(gated_norm_hadamard<Gate, Output, Op>, dim3(unsigned(tokens)), threads,
                             size_t(gated_bytes(E, op.n_groups, threads)), 1, gpu, stream, op);
}

inline const char *gated_refusal(int64_t E, int groups) {
    if (E > 16384) return "E, the channels of a token, must be at most 16384";
    if (groups > MOST_GROUPS) return "n_groups must be at most 256";
    return shared_memory_refusal(gated_bytes(E, groups, token_threads(E)) + TABLE_BYTES);
}

}  // namespace quamba
