// When several blocks make the parts of one token's transform, and when one block takes the token.
#pragma once

#include "hadamard_part.cuh"
#include "launch.cuh"

namespace quamba {

// Where the tokens would leave most of the GPU idle, and a part is worth a block.
inline bool part_a_token(int64_t tokens, int64_t size, int hadamard, const Gpu &gpu) {
    return hadamard && tokens * PARTS <= gpu.multiprocessors && size >= 1024 &&
           hadamard_shape(int(size)).power >= 8 * PARTS;
}

// Launches kernel(op, scale) with PARTS blocks a token.
template <class Op>
cudaError_t launch_parts(void (*kernel)(Op, PartScale), const Op &op, int64_t tokens, int64_t shared_bytes,
                         const Gpu &gpu, cudaStream_t stream) {
    return launch_overlapped(kernel, dim3(unsigned(tokens * PARTS)), part_threads(op.size.E / PARTS),
                             size_t(shared_bytes), 1, gpu, stream, op,
                             PartScale(int(op.size.E), op.out_scale));
}

}  // namespace quamba
