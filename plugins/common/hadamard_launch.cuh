// When a cluster of blocks shares one token of a transform out, and when a block takes it alone.
#pragma once

#include "hadamard.cuh"
#include "launch.cuh"

namespace quamba {

constexpr int TOKEN_CLUSTER = 8;

// Where the GPU has clusters, the tokens would leave most of it idle and every block gets rows of some width.
inline bool cluster_a_token(int64_t tokens, int64_t size, int hadamard, const Gpu &gpu) {
    return gpu.clusters && hadamard && tokens * TOKEN_CLUSTER <= gpu.multiprocessors && size >= 1024 &&
           hadamard_shape(int(size)).power >= 8 * TOKEN_CLUSTER;
}

}  // namespace quamba
