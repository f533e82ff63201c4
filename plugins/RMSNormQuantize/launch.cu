// C ABI of RMSNormQuantize; the struct is made from op.py.
#include <cuda_runtime.h>

#include "kernel.cuh"

extern "C" const char *quamba_RMSNormQuantize_refusal(const QuambaRMSNormQuantize *) { return nullptr; }

extern "C" size_t quamba_RMSNormQuantize_workspace(const QuambaRMSNormQuantize *) { return 0; }

extern "C" int quamba_RMSNormQuantize_launch(const QuambaRMSNormQuantize *op, void *, cudaStream_t stream) {
    const unsigned tokens = unsigned(op->size.B * op->size.L);
    quamba::rms_norm_quantize<<<tokens, quamba::NORM_THREADS, 0, stream>>>(*op);
    return cudaGetLastError();
}
