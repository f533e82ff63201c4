// C ABI of QuantizedCausalConv1d; the struct is made from op.py.
#include "launch.cuh"

namespace quamba {

// Whether four channels side by side can be loaded and stored at once, in a call of more than one run.
inline bool takes_words(const QuambaQuantizedCausalConv1d &op) {
    const auto aligned = [](const void *data, int bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; };
    return op.size.L > WORD_RUN && op.size.L <= int64_t(MOST_RUNS) * WORD_RUN && op.size.C % 4 == 0 &&
           op.x_stride % 4 == 0 && aligned(op.x, 4) && aligned(op.y, 4) && aligned(op.x_scale, 16) &&
           aligned(op.weight_scale, 16) && aligned(op.bias, 16) && aligned(op.out_scale, 16);
}

template <int W>
cudaError_t launch_width(const QuambaQuantizedCausalConv1d &op, const Gpu &gpu, cudaStream_t stream) {
    if (!takes_words(op)) return launch_runs<CodeChannel, W>(op, gpu, stream);
    const dim3 grid(blocks_of(op.size.C, 4 * CONV_THREADS), blocks_of(op.size.L, WORD_RUN), unsigned(op.size.B));
    return launch_overlapped(causal_conv_words<W>, grid, CONV_THREADS, 0, 1, gpu, stream, op);
}

}  // namespace quamba

extern "C" const char *quamba_QuantizedCausalConv1d_refusal(const QuambaQuantizedCausalConv1d *op) {
    return quamba::conv_refusal(op->size.B, op->size.L, op->size.W);
}

extern "C" size_t quamba_QuantizedCausalConv1d_workspace(const QuambaQuantizedCausalConv1d *) { return 0; }

extern "C" int quamba_QuantizedCausalConv1d_launch(const QuambaQuantizedCausalConv1d *op, void *,
                                                   cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    if (op->size.W == 2) return quamba::launch_width<2>(*op, gpu, stream);
    if (op->size.W == 3) return quamba::launch_width<3>(*op, gpu, stream);
    return quamba::launch_width<4>(*op, gpu, stream);
}
