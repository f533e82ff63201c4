// When several blocks make the parts of one token's transform, and when one block takes the token.
#pragma once

#include "hadamard_part.cuh"
#include "hadamard_whole.cuh"
#include "launch.cuh"

namespace quamba {

// Where the tokens would leave most of the GPU idle, and a part is worth a block.
inline bool part_a_token(int64_t tokens, int64_t size, int hadamard, const Gpu &gpu) {
    return hadamard && tokens * PARTS <= gpu.multiprocessors && size >= 1024 &&
           hadamard_shape(int(size)).power >= 8 * PARTS;
}

// Launches kernel(op, scale) with PARTS blocks a token.
template <class Op, class Output>
cudaError_t launch_parts(void (*kernel)(Op, Output), const Op &op, int64_t tokens, int64_t shared_bytes,
                         const Gpu &gpu, cudaStream_t stream) {
    return launch_overlapped(kernel, dim3(unsigned(tokens * PARTS)), part_threads(op.size.E / PARTS),
                             size_t(shared_bytes), 1, gpu, stream, op, Output(op));
}

// Where one block holds the token in registers at both ends of its transform, and stores 16 outputs side by side.
inline bool takes_whole(int64_t size, int hadamard, const void *y) {
    return hadamard && first_radix(hadamard_shape(int(size))) && whole_threads(int(size)) <= 1024 &&
           reinterpret_cast<uintptr_t>(y) % 16 == 0;
}

// Launches kernel(op, scale) with a block a token.
template <class Op, class Output>
cudaError_t launch_whole(void (*kernel)(Op, Output), const Op &op, int64_t tokens, int64_t shared_bytes,
                         const Gpu &gpu, cudaStream_t stream) {
    return launch_overlapped(kernel, dim3(unsigned(tokens)), whole_threads(int(op.size.E)), size_t(shared_bytes), 1,
                             gpu, stream, op, Output(op));
}

}  // namespace quamba
