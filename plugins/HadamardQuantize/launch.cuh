// Which kernel a transform takes, for outputs of every kind.
#pragma once

#include "../common/hadamard_launch.cuh"
#include "kernel.cuh"

namespace quamba {

template <class Output, class Op>
cudaError_t launch_hadamard(const Op &op, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int64_t tokens = op.size.B * op.size.L, E = op.size.E;
    if (part_a_token(tokens, E, op.hadamard, gpu)) {
        const auto kernel = part_items(E / PARTS) == 1 ? hadamard_part<1, Op, Output> : hadamard_part<2, Op, Output>;
        return launch_parts(kernel, op, tokens, entries_bytes(E / PARTS), gpu, stream);
    }
    if (takes_whole(E, op.hadamard, op.y)) {
        const auto kernel = first_radix(hadamard_shape(int(E))) == 16 ? hadamard_whole<16, Op, Output>
                                                                      : hadamard_whole<8, Op, Output>;
        return launch_whole(kernel, op, tokens, entries_bytes(E), gpu, stream);
    }
    return launch_overlapped(hadamard<Output, Op>, dim3(unsigned(tokens)), token_threads(E),
                             size_t(entries_bytes(E)), 1, gpu, stream, op);
}

inline const char *hadamard_refusal(int64_t E) {
    if (E > 16384) return "E, the channels of a token, must be at most 16384";
    return shared_memory_refusal(entries_bytes(E));
}

}  // namespace quamba
