// C ABI of HalfCausalConv1d: QuantizedCausalConv1d's kernel on fp16 numbers.
#include "../QuantizedCausalConv1d/launch.cuh"
#include "../common/half.cuh"

namespace quamba {

struct HalfChannel {
    using Stored = __half;
    using Held = float;
    static constexpr Held NOTHING = -0.0f;  // so that the sum of one product is that product, zeros too
    float bias;

    __device__ __forceinline__ HalfChannel(const QuambaHalfCausalConv1d &op, int64_t c) : bias(op.bias[c]) {}

    static __device__ __forceinline__ Held held(Stored input) { return __half2float(input); }
    static __device__ __forceinline__ Stored stored(Held input) { return __float2half_rn(input); }

    __device__ __forceinline__ Stored output(Held total) const { return half_silu(total + bias); }
};

}  // namespace quamba

extern "C" const char *quamba_HalfCausalConv1d_refusal(const QuambaHalfCausalConv1d *op) {
    return quamba::conv_refusal(op->size.B, op->size.L, op->size.W);
}

extern "C" size_t quamba_HalfCausalConv1d_workspace(const QuambaHalfCausalConv1d *) { return 0; }

extern "C" int quamba_HalfCausalConv1d_launch(const QuambaHalfCausalConv1d *op, void *, cudaStream_t stream) {
    using quamba::HalfChannel;
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    if (op->size.W == 2) return quamba::launch_runs<HalfChannel, 2>(*op, gpu, stream);
    if (op->size.W == 3) return quamba::launch_runs<HalfChannel, 3>(*op, gpu, stream);
    return quamba::launch_runs<HalfChannel, 4>(*op, gpu, stream);
}
