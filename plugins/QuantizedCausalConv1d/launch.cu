// C ABI of QuantizedCausalConv1d; the struct is made from op.py.
#include "../common/launch.cuh"
#include "kernel.cuh"

namespace quamba {

template <int W>
cudaError_t launch_width(const QuambaQuantizedCausalConv1d &op, cudaStream_t stream) {
    const unsigned channels = unsigned((op.size.C + CONV_THREADS - 1) / CONV_THREADS);
    const unsigned runs = unsigned((op.size.L + CONV_RUN - 1) / CONV_RUN), batch = unsigned(op.size.B);
    Gpu gpu = {};
    cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const auto kernel = op.size.L == 1 ? causal_conv<W, 1> : causal_conv<W, CONV_RUN>;
    error = launch_overlapped(kernel, dim3(channels, runs, batch), CONV_THREADS, 0, 1, gpu, stream, op);
    if (error != cudaSuccess || runs == 1) return error;
    return launch_overlapped(causal_conv_state<W>, dim3(channels, 1, batch), CONV_THREADS, 0, 1, gpu, stream,
                             op);
}

}  // namespace quamba

extern "C" const char *quamba_QuantizedCausalConv1d_refusal(const QuambaQuantizedCausalConv1d *op) {
    if (op->size.W < 2 || op->size.W > 4) return "W, the width of the convolution, must be 2, 3 or 4";
    if (op->size.B > 65535) return "B, the batch, must be at most 65535";
    if (op->size.L > 65535 * quamba::CONV_RUN) return "L, the length, must be at most 1048560";
    return nullptr;
}

extern "C" size_t quamba_QuantizedCausalConv1d_workspace(const QuambaQuantizedCausalConv1d *) { return 0; }

extern "C" int quamba_QuantizedCausalConv1d_launch(const QuambaQuantizedCausalConv1d *op, void *,
                                                   cudaStream_t stream) {
    if (op->size.W == 2) return quamba::launch_width<2>(*op, stream);
    if (op->size.W == 3) return quamba::launch_width<3>(*op, stream);
    return quamba::launch_width<4>(*op, stream);
}
