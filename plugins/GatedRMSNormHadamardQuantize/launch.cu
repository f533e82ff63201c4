// C ABI of GatedRMSNormHadamardQuantize; the struct is made from op.py.
#include <cuda_runtime.h>

#include "kernel.cuh"

namespace quamba {

inline int gated_shared_bytes(const QuambaGatedRMSNormHadamardQuantize &op) {
    const int parts = op.n_groups < GATED_WARPS ? GATED_WARPS : op.n_groups;
    return int(op.size.E * (sizeof(double) + sizeof(float))) + parts * int(sizeof(double));
}

}  // namespace quamba

extern "C" const char *quamba_GatedRMSNormHadamardQuantize_refusal(const QuambaGatedRMSNormHadamardQuantize *op) {
    if (op->size.E > 12288) return "E, the channels of a token, must be at most 12288";
    if (op->n_groups > quamba::MOST_GROUPS) return "n_groups must be at most 256";
    return nullptr;
}

extern "C" size_t quamba_GatedRMSNormHadamardQuantize_workspace(const QuambaGatedRMSNormHadamardQuantize *) {
    return 0;
}

extern "C" int quamba_GatedRMSNormHadamardQuantize_launch(const QuambaGatedRMSNormHadamardQuantize *op, void *,
                                                          cudaStream_t stream) {
    const int bytes = quamba::gated_shared_bytes(*op);
    const cudaError_t error = cudaFuncSetAttribute(quamba::gated_norm_hadamard_quantize,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    const unsigned tokens = unsigned(op->size.B * op->size.L);
    quamba::gated_norm_hadamard_quantize<<<tokens, quamba::GATED_THREADS, bytes, stream>>>(*op);
    return cudaGetLastError();
}
