// C ABI of HalfSSDScan: QuantizedSSDScan's kernels for tokens one by one, on fp16 numbers.
#include "../QuantizedSSDScan/launch.cuh"

namespace quamba {

template <>
struct SSDInputs<QuambaHalfSSDScan> {
    using Op = QuambaHalfSSDScan;
    using Element = __half;
    static constexpr bool CODES = false;

    static __device__ __forceinline__ float dt(const Op &, __half value) { return __half2float(value); }
    static __device__ __forceinline__ float B_scale(const Op &, int) { return 1.0f; }
    static __device__ __forceinline__ float C_scale(const Op &, int) { return 1.0f; }
    static __device__ __forceinline__ float x_scale(const Op &, int) { return 1.0f; }
};

}  // namespace quamba

extern "C" const char *quamba_HalfSSDScan_refusal(const QuambaHalfSSDScan *op) {
    return quamba::ssd_refusal(op->size.B, op->size.H, op->size.N);
}

extern "C" size_t quamba_HalfSSDScan_workspace(const QuambaHalfSSDScan *op) {
    return quamba::steps_bytes(op->size.B, op->size.L, op->size.H);
}

extern "C" int quamba_HalfSSDScan_launch(const QuambaHalfSSDScan *op, void *workspace, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const auto launch = op->state_dtype == QUAMBA_FLOAT16 ? quamba::launch_tokens<__half, QuambaHalfSSDScan>
                                                          : quamba::launch_tokens<float, QuambaHalfSSDScan>;
    return launch(*op, {}, static_cast<quamba::SSDStep *>(workspace), 0, gpu, stream);
}
