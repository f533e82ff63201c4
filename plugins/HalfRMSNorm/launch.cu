// C ABI of HalfRMSNorm: RMSNormQuantize's kernel, which writes fp16.
#include "../RMSNormQuantize/kernel.cuh"
#include "../common/half.cuh"
#include "../common/launch.cuh"

namespace quamba {

struct NormedHalf {
    using Stored = __half;
    float root;

    __device__ __forceinline__ NormedHalf(const QuambaHalfRMSNorm &, float root) : root(root) {}

    __device__ __forceinline__ __half operator()(float v) const { return saturated_half(v / root); }
};

}  // namespace quamba

extern "C" const char *quamba_HalfRMSNorm_refusal(const QuambaHalfRMSNorm *) { return nullptr; }

extern "C" size_t quamba_HalfRMSNorm_workspace(const QuambaHalfRMSNorm *) { return 0; }

extern "C" int quamba_HalfRMSNorm_launch(const QuambaHalfRMSNorm *op, void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const dim3 tokens(unsigned(op->size.B * op->size.L));
    const auto kernel = quamba::rms_norm<quamba::NormedHalf, QuambaHalfRMSNorm>;
    return quamba::launch_overlapped(kernel, tokens, quamba::NORM_THREADS, 0, 1, gpu, stream, *op);
}
