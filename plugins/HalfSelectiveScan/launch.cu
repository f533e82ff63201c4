// C ABI of HalfSelectiveScan: QuantizedSelectiveScan's kernels on fp16 numbers and fp32 constants.
#include "../QuantizedSelectiveScan/launch.cuh"
#include "../common/half_gate.cuh"

namespace quamba {

template <>
struct SelectiveInputs<QuambaHalfSelectiveScan> {
    using Op = QuambaHalfSelectiveScan;
    using Element = __half;
    using Constant = float;
    using Gate = HalfGate;

    static __device__ __forceinline__ float x(const Op &, __half value) { return __half2float(value); }
    static __device__ __forceinline__ float dt(const Op &, __half value) { return __half2float(value); }
    static __device__ __forceinline__ float B(const Op &, __half value) { return __half2float(value); }
    static __device__ __forceinline__ float C(const Op &, __half value) { return __half2float(value); }
    static __device__ __forceinline__ float z(const Op &, __half value) { return __half2float(value); }
    static __device__ __forceinline__ float D(const Op &, float value) { return value; }
    static __device__ __forceinline__ float A_log(const Op &, float value) { return value; }
    static __device__ __forceinline__ float dt_bias(const Op &, float value) { return value; }
    static __device__ __forceinline__ float state_scale(const Op &) { return 1.0f; }
};

}  // namespace quamba

extern "C" const char *quamba_HalfSelectiveScan_refusal(const QuambaHalfSelectiveScan *op) {
    return quamba::selective_refusal(op->size.B, op->size.N);
}

extern "C" size_t quamba_HalfSelectiveScan_workspace(const QuambaHalfSelectiveScan *) { return 0; }

extern "C" int quamba_HalfSelectiveScan_launch(const QuambaHalfSelectiveScan *op, void *, cudaStream_t stream) {
    const auto launch = op->state_dtype == QUAMBA_FLOAT16 ? quamba::launch_state<__half, QuambaHalfSelectiveScan>
                                                          : quamba::launch_state<float, QuambaHalfSelectiveScan>;
    return launch(*op, {}, stream);
}
