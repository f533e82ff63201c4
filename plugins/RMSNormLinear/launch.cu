// C ABI of RMSNormLinear; the struct is made from op.py.
#include <cuda_runtime.h>

#include <algorithm>

#include "../common/launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

namespace quamba {

constexpr int HEAD_RESERVE = 128;  // bytes of shared memory

inline HeadProduct head_product(const QuambaRMSNormLinear &op) {
    const int D = int(op.size.D);
    const bool aligned =
        reinterpret_cast<uintptr_t>(op.x) % 16 == 0 && op.x_stride % 4 == 0 && D % 4 == 0;
    return {op.x,
            static_cast<const uint16_t *>(op.weight),
            op.logits,
            op.x_stride,
            int(op.size.B * op.size.L),
            D,
            int(op.size.V),
            op.epsilon,
            aligned};
}

inline int64_t head_shared_bytes(int64_t D, int tokens) {
    return int64_t(sizeof(float)) * tokens * head_pitch(int(D));
}

// Whether that many tokens fit into the shared memory of a block, beside what the kernel declares itself.
inline bool head_fits(int64_t D, int tokens, const Gpu &gpu) {
    return head_shared_bytes(D, tokens) + HEAD_RESERVE <= gpu.shared_bytes;
}

// As many blocks as run at once, or fewer, so that all warps walk through equally many rows.
template <int TOKENS, int ROWS, int DEPTH, bool ALIGNED>
cudaError_t launch_head_shape(const HeadProduct &p, const Gpu &gpu, cudaStream_t stream) {
    const auto kernel = rms_norm_linear<TOKENS, ROWS, DEPTH, ALIGNED>;
    const size_t shared = size_t(head_shared_bytes(p.D, TOKENS));
    cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
    int resident = 0;  // blocks on one multiprocessor
    if (error == cudaSuccess)
        error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, HEAD_THREADS, shared);
    if (error != cudaSuccess) return error;
    const int groups = (p.V + ROWS - 1) / ROWS;  // of rows that a warp takes at a time
    const int most = std::max(1, resident * gpu.multiprocessors) * HEAD_WARPS;
    const int each = (groups + most - 1) / most;
    const dim3 grid((groups + each * HEAD_WARPS - 1) / (each * HEAD_WARPS), (p.T + TOKENS - 1) / TOKENS);
    return launch_overlapped(kernel, grid, HEAD_THREADS, shared, 1, gpu, stream, p);
}

// Few tokens leave registers for more steps in flight, many want each load of a token to serve more rows.
template <bool ALIGNED>
cudaError_t launch_head(const HeadProduct &p, int tokens, const Gpu &gpu, cudaStream_t stream) {
    switch (tokens) {
        case 1: return launch_head_shape<1, 2, 4, ALIGNED>(p, gpu, stream);
        case 2: return launch_head_shape<2, 2, 4, ALIGNED>(p, gpu, stream);
        case 4: return launch_head_shape<4, 4, 3, ALIGNED>(p, gpu, stream);
        default: return launch_head_shape<8, 4, 2, ALIGNED>(p, gpu, stream);
    }
}

}  // namespace quamba

extern "C" const char *quamba_RMSNormLinear_refusal(const QuambaRMSNormLinear *op) {
    if (op->size.V > (1 << 30)) return "V must be at most 1073741824";
    if (op->size.D > (1 << 20)) return "D must be at most 1048576";
    if (op->size.B > 65535 / op->size.L) return "B * L must be at most 65535";
    return quamba::shared_memory_refusal(quamba::head_shared_bytes(op->size.D, 1) + quamba::HEAD_RESERVE);
}

extern "C" size_t quamba_RMSNormLinear_workspace(const QuambaRMSNormLinear *) { return 0; }

extern "C" int quamba_RMSNormLinear_launch(const QuambaRMSNormLinear *op, void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const quamba::HeadProduct p = quamba::head_product(*op);
    int tokens = 1;  // in one pass: a power of two, as many as there are and as fit
    while (tokens < p.T && tokens < quamba::HEAD_TOKENS && quamba::head_fits(p.D, 2 * tokens, gpu)) {
        tokens *= 2;
    }
    const bool aligned = reinterpret_cast<uintptr_t>(p.weight) % 16 == 0 && p.D % 8 == 0;
    return aligned ? quamba::launch_head<true>(p, tokens, gpu, stream)
                   : quamba::launch_head<false>(p, tokens, gpu, stream);
}
