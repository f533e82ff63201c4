// C ABI of QuantizedSSDScan; the struct is made from op.py.
#include <cuda_runtime.h>

#include "kernel.cuh"

namespace quamba {

// More rows a warp share the reads of B and C; fewer give more blocks where heads are few.
template <class Stored, int N_LANE, int ROWS>
cudaError_t launch_rows(const QuambaQuantizedSSDScan &op, cudaStream_t stream) {
    using Scan = SSDScan<Stored, N_LANE, ROWS>;
    const auto kernel = ssd_scan<Stored, N_LANE, ROWS>;
    const int bytes = int(sizeof(typename Scan::Tile));
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    const unsigned blocks = unsigned((op.size.P + Scan::BLOCK_ROWS - 1) / Scan::BLOCK_ROWS);
    kernel<<<dim3(blocks, unsigned(op.size.H), unsigned(op.size.B)), 32 * SSD_WARPS, bytes, stream>>>(op);
    return cudaGetLastError();
}

template <class Stored, int N_LANE>
cudaError_t launch_lanes(const QuambaQuantizedSSDScan &op, cudaStream_t stream) {
    int device = 0, multiprocessors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) return error;
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess) return error;
    const int64_t warps = op.size.B * op.size.H * op.size.P / 4;
    if constexpr (N_LANE <= 4) {
        if (warps >= int64_t(8) * multiprocessors) return launch_rows<Stored, N_LANE, 4>(op, stream);
    }
    return launch_rows<Stored, N_LANE, 2>(op, stream);
}

template <class Stored>
cudaError_t launch_state(const QuambaQuantizedSSDScan &op, cudaStream_t stream) {
    if (op.size.N <= 32) return launch_lanes<Stored, 1>(op, stream);
    if (op.size.N <= 64) return launch_lanes<Stored, 2>(op, stream);
    if (op.size.N <= 128) return launch_lanes<Stored, 4>(op, stream);
    return launch_lanes<Stored, 8>(op, stream);
}

}  // namespace quamba

extern "C" const char *quamba_QuantizedSSDScan_refusal(const QuambaQuantizedSSDScan *op) {
    if (op->size.N > 256) return "N, the state size, must be at most 256";
    if (op->size.H > 65535) return "H, the number of heads, must be at most 65535";
    if (op->size.B > 65535) return "B, the batch, must be at most 65535";
    return nullptr;
}

extern "C" size_t quamba_QuantizedSSDScan_workspace(const QuambaQuantizedSSDScan *) { return 0; }

extern "C" int quamba_QuantizedSSDScan_launch(const QuambaQuantizedSSDScan *op, void *, cudaStream_t stream) {
    if (op->state_dtype == QUAMBA_INT8) return quamba::launch_state<int8_t>(*op, stream);
    if (op->state_dtype == QUAMBA_FLOAT16) return quamba::launch_state<__half>(*op, stream);
    return quamba::launch_state<float>(*op, stream);
}
