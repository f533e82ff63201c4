// C ABI of GatedRMSNormHadamardQuantize; the struct is made from op.py.
#include "../common/hadamard_launch.cuh"
#include "kernel.cuh"

namespace quamba {

// Shared memory of a block, one of `cluster` that hold a token.
inline int64_t gated_bytes(const QuambaGatedRMSNormHadamardQuantize &op, int cluster) {
    const int64_t count = op.size.E / cluster;
    const int64_t sums = group_parts(op.n_groups, token_threads(count)) + (cluster > 1 ? cluster : 0);
    return entries_bytes(count) + int64_t(sizeof(double)) * op.n_groups * sums;
}

template <int CLUSTER>
cudaError_t launch_gated(const QuambaGatedRMSNormHadamardQuantize &op, const Gpu &gpu, cudaStream_t stream) {
    return launch_overlapped(gated_norm_hadamard_quantize<CLUSTER>,
                             dim3(unsigned(op.size.B * op.size.L * CLUSTER)),
                             token_threads(op.size.E / CLUSTER), size_t(gated_bytes(op, CLUSTER)), CLUSTER, gpu,
                             stream, op);
}

}  // namespace quamba

extern "C" const char *quamba_GatedRMSNormHadamardQuantize_refusal(
    const QuambaGatedRMSNormHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    if (op->n_groups > quamba::MOST_GROUPS) return "n_groups must be at most 256";
    const int64_t tables = sizeof(float) * (256 + quamba::MOST_GROUPS);
    return quamba::shared_memory_refusal(quamba::gated_bytes(*op, 1) + tables);
}

extern "C" size_t quamba_GatedRMSNormHadamardQuantize_workspace(const QuambaGatedRMSNormHadamardQuantize *) {
    return 0;
}

extern "C" int quamba_GatedRMSNormHadamardQuantize_launch(const QuambaGatedRMSNormHadamardQuantize *op,
                                                          void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int64_t tokens = op->size.B * op->size.L;
    if (quamba::cluster_a_token(tokens, op->size.E, op->hadamard, gpu))
        return quamba::launch_gated<quamba::TOKEN_CLUSTER>(*op, gpu, stream);
    return quamba::launch_gated<1>(*op, gpu, stream);
}
