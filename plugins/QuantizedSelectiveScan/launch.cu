// C ABI of QuantizedSelectiveScan; the struct is made from op.py.
#include "../common/launch.cuh"
#include "kernel.cuh"
#include "step.cuh"

namespace quamba {

template <class Stored, int LANES, int N_LANE>
cudaError_t launch_lanes(const QuambaQuantizedSelectiveScan &op, cudaStream_t stream) {
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const bool one_token = op.size.L == 1 && gpu.overlap;  // more fp64, most of it ahead of its turn
    const int threads = one_token ? SELECTIVE_STEP_THREADS : SELECTIVE_THREADS, channels = threads / LANES;
    const auto kernel =
        one_token ? selective_one_token<Stored, LANES, N_LANE> : selective_scan<Stored, LANES, N_LANE>;
    const unsigned blocks = unsigned((op.size.E + channels - 1) / channels);
    return launch_overlapped(kernel, dim3(blocks, unsigned(op.size.B)), threads, 0, 1, gpu, stream, op);
}

template <class Stored>
cudaError_t launch_state(const QuambaQuantizedSelectiveScan &op, cudaStream_t stream) {
    if (op.size.N <= 16) return launch_lanes<Stored, 16, 1>(op, stream);
    if (op.size.N <= 32) return launch_lanes<Stored, 32, 1>(op, stream);
    if (op.size.N <= 64) return launch_lanes<Stored, 32, 2>(op, stream);
    if (op.size.N <= 128) return launch_lanes<Stored, 32, 4>(op, stream);
    return launch_lanes<Stored, 32, 8>(op, stream);
}

}  // namespace quamba

extern "C" const char *quamba_QuantizedSelectiveScan_refusal(const QuambaQuantizedSelectiveScan *op) {
    if (op->size.N > 256) return "N, the state size, must be at most 256";
    if (op->size.B > 65535) return "B, the batch, must be at most 65535";
    return nullptr;
}

extern "C" size_t quamba_QuantizedSelectiveScan_workspace(const QuambaQuantizedSelectiveScan *) { return 0; }

extern "C" int quamba_QuantizedSelectiveScan_launch(const QuambaQuantizedSelectiveScan *op, void *,
                                                    cudaStream_t stream) {
    if (op->state_dtype == QUAMBA_INT8) return quamba::launch_state<int8_t>(*op, stream);
    if (op->state_dtype == QUAMBA_FLOAT16) return quamba::launch_state<__half>(*op, stream);
    return quamba::launch_state<float>(*op, stream);
}
