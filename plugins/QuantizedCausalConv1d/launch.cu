// C ABI of QuantizedCausalConv1d; the struct is made from op.py.
#include "../common/launch.cuh"
#include "kernel.cuh"

namespace quamba {

constexpr int MOST_RUNS = 65535;  // blocks along y that a grid takes

// Whether four channels side by side can be loaded and stored at once, in a call of more than one run.
inline bool takes_words(const QuambaQuantizedCausalConv1d &op) {
    const auto aligned = [](const void *data, int bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; };
    return op.size.L > WORD_RUN && op.size.L <= int64_t(MOST_RUNS) * WORD_RUN && op.size.C % 4 == 0 &&
           op.x_stride % 4 == 0 && aligned(op.x, 4) && aligned(op.y, 4) && aligned(op.x_scale, 16) &&
           aligned(op.weight_scale, 16) && aligned(op.bias, 16) && aligned(op.out_scale, 16);
}

inline unsigned blocks_of(int64_t count, int64_t each) { return unsigned((count + each - 1) / each); }

template <int W>
cudaError_t launch_width(const QuambaQuantizedCausalConv1d &op, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int64_t C = op.size.C, L = op.size.L;
    if (takes_words(op)) {
        const dim3 grid(blocks_of(C, 4 * CONV_THREADS), blocks_of(L, WORD_RUN), unsigned(op.size.B));
        return launch_overlapped(causal_conv_words<W>, grid, CONV_THREADS, 0, 1, gpu, stream, op);
    }
    const auto kernel = L == 1 ? causal_conv<W, 1> : causal_conv<W, CONV_RUN>;
    const dim3 grid(blocks_of(C, CONV_THREADS), blocks_of(L, CONV_RUN), unsigned(op.size.B));
    return launch_overlapped(kernel, grid, CONV_THREADS, 0, 1, gpu, stream, op);
}

}  // namespace quamba

extern "C" const char *quamba_QuantizedCausalConv1d_refusal(const QuambaQuantizedCausalConv1d *op) {
    if (op->size.W < 2 || op->size.W > 4) return "W, the width of the convolution, must be 2, 3 or 4";
    if (op->size.B > 65535) return "B, the batch, must be at most 65535";
    if (op->size.L > quamba::MOST_RUNS * quamba::CONV_RUN) return "L, the length, must be at most 1048560";
    return nullptr;
}

extern "C" size_t quamba_QuantizedCausalConv1d_workspace(const QuambaQuantizedCausalConv1d *) { return 0; }

extern "C" int quamba_QuantizedCausalConv1d_launch(const QuambaQuantizedCausalConv1d *op, void *,
                                                   cudaStream_t stream) {
    if (op->size.W == 2) return quamba::launch_width<2>(*op, stream);
    if (op->size.W == 3) return quamba::launch_width<3>(*op, stream);
    return quamba::launch_width<4>(*op, stream);
}
