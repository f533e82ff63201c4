// C ABI of RMSNormQuantize; the struct is made from op.py.
#include "../common/launch.cuh"
#include "kernel.cuh"

extern "C" const char *quamba_RMSNormQuantize_refusal(const QuambaRMSNormQuantize *) { return nullptr; }

extern "C" size_t quamba_RMSNormQuantize_workspace(const QuambaRMSNormQuantize *) { return 0; }

extern "C" int quamba_RMSNormQuantize_launch(const QuambaRMSNormQuantize *op, void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const dim3 tokens(unsigned(op->size.B * op->size.L));
    const auto kernel = quamba::rms_norm<quamba::NormedCode, QuambaRMSNormQuantize>;
    return quamba::launch_overlapped(kernel, tokens, quamba::NORM_THREADS, 0, 1, gpu, stream, *op);
}
