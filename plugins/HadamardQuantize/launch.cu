// C ABI of HadamardQuantize; the struct is made from op.py.
#include <cuda_runtime.h>

#include "kernel.cuh"

extern "C" const char *quamba_HadamardQuantize_refusal(const QuambaHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    return nullptr;
}

extern "C" size_t quamba_HadamardQuantize_workspace(const QuambaHadamardQuantize *) { return 0; }

extern "C" int quamba_HadamardQuantize_launch(const QuambaHadamardQuantize *op, void *, cudaStream_t stream) {
    const int bytes = int(op->size.E * sizeof(double));
    const cudaError_t error = cudaFuncSetAttribute(quamba::hadamard_quantize,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    const unsigned tokens = unsigned(op->size.B * op->size.L);
    quamba::hadamard_quantize<<<tokens, quamba::HADAMARD_THREADS, bytes, stream>>>(*op);
    return cudaGetLastError();
}
