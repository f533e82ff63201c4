// C ABI of GatedRMSNormHadamardQuantize; the struct is made from op.py.
#include "../common/launch.cuh"
#include "kernel.cuh"

namespace quamba {

inline int64_t gated_bytes(const QuambaGatedRMSNormHadamardQuantize &op) {
    const int parts = group_parts(op.n_groups, token_threads(op.size.E));
    return entries_bytes(op.size.E) + int64_t(sizeof(double)) * op.n_groups * parts;
}

}  // namespace quamba

extern "C" const char *quamba_GatedRMSNormHadamardQuantize_refusal(
    const QuambaGatedRMSNormHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    if (op->n_groups > quamba::MOST_GROUPS) return "n_groups must be at most 256";
    const int64_t tables = sizeof(float) * (256 + quamba::MOST_GROUPS);
    return quamba::shared_memory_refusal(quamba::gated_bytes(*op) + tables);
}

extern "C" size_t quamba_GatedRMSNormHadamardQuantize_workspace(const QuambaGatedRMSNormHadamardQuantize *) {
    return 0;
}

extern "C" int quamba_GatedRMSNormHadamardQuantize_launch(const QuambaGatedRMSNormHadamardQuantize *op,
                                                          void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const dim3 tokens(unsigned(op->size.B * op->size.L));
    return quamba::launch_overlapped(quamba::gated_norm_hadamard_quantize, tokens,
                                     quamba::token_threads(op->size.E), size_t(quamba::gated_bytes(*op)), 1,
                                     gpu, stream, *op);
}
