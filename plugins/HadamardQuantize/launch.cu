// C ABI of HadamardQuantize; the struct is made from op.py.
#include "../common/launch.cuh"
#include "kernel.cuh"

extern "C" const char *quamba_HadamardQuantize_refusal(const QuambaHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    return quamba::shared_memory_refusal(quamba::entries_bytes(op->size.E));
}

extern "C" size_t quamba_HadamardQuantize_workspace(const QuambaHadamardQuantize *) { return 0; }

extern "C" int quamba_HadamardQuantize_launch(const QuambaHadamardQuantize *op, void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const dim3 tokens(unsigned(op->size.B * op->size.L));
    return quamba::launch_overlapped(quamba::hadamard_quantize, tokens, quamba::token_threads(op->size.E),
                                     size_t(quamba::entries_bytes(op->size.E)), 1, gpu, stream, *op);
}
