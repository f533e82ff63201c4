// C ABI of GatedRMSNormHadamardQuantize; the struct is made from op.py.
#include "../common/launch.cuh"
#include "kernel.cuh"

extern "C" const char *quamba_GatedRMSNormHadamardQuantize_refusal(const QuambaGatedRMSNormHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    if (op->n_groups > quamba::MOST_GROUPS) return "n_groups must be at most 256";
    return nullptr;
}

extern "C" size_t quamba_GatedRMSNormHadamardQuantize_workspace(const QuambaGatedRMSNormHadamardQuantize *) {
    return 0;
}

extern "C" int quamba_GatedRMSNormHadamardQuantize_launch(const QuambaGatedRMSNormHadamardQuantize *op, void *,
                                                          cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int threads = quamba::token_threads(op->size.E), parts = quamba::group_parts(op->n_groups, threads);
    const size_t bytes = size_t(quamba::entries_bytes(op->size.E)) + sizeof(double) * size_t(op->n_groups * parts);
    const dim3 tokens(unsigned(op->size.B * op->size.L));
    return quamba::launch_overlapped(quamba::gated_norm_hadamard_quantize, tokens, threads, bytes, 1, gpu, stream,
                                     *op);
}
