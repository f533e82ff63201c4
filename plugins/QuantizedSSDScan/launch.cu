// C ABI of QuantizedSSDScan; the struct is made from op.py.
#include "chunk_launch.cuh"
#include "launch.cuh"

namespace quamba {

template <class Stored>
cudaError_t launch_state(const QuambaQuantizedSSDScan &op, void *memory, cudaStream_t stream) {
    Gpu gpu = {};
    cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    SSDStep *steps = static_cast<SSDStep *>(memory);  // where ChunkWorkspace has them, too
    const int64_t begin = op.size.L / CHUNK * CHUNK;
    const bool aligned = piece_bytes(op) == 16 && reinterpret_cast<uintptr_t>(op.y) % 8 == 0;
    if (begin) error = launch_chunks<Stored>(op, memory, aligned, gpu, stream);
    if (error != cudaSuccess || begin == op.size.L) return error;
    return launch_tokens<Stored>(op, {}, steps, begin, gpu, stream);
}

}  // namespace quamba

extern "C" const char *quamba_QuantizedSSDScan_refusal(const QuambaQuantizedSSDScan *op) {
    return quamba::ssd_refusal(op->size.B, op->size.H, op->size.N);
}

extern "C" size_t quamba_QuantizedSSDScan_workspace(const QuambaQuantizedSSDScan *op) {
    return quamba::workspace_bytes(*op);
}

extern "C" int quamba_QuantizedSSDScan_launch(const QuambaQuantizedSSDScan *op, void *workspace,
                                              cudaStream_t stream) {
    if (op->state_dtype == QUAMBA_INT8) return quamba::launch_state<int8_t>(*op, workspace, stream);
    if (op->state_dtype == QUAMBA_FLOAT16) return quamba::launch_state<__half>(*op, workspace, stream);
    return quamba::launch_state<float>(*op, workspace, stream);
}
