// C ABI of HadamardQuantize; the struct is made from op.py.
#include "../common/hadamard_launch.cuh"
#include "kernel.cuh"

namespace quamba {

template <int CLUSTER>
cudaError_t launch_hadamard(const QuambaHadamardQuantize &op, const Gpu &gpu, cudaStream_t stream) {
    const int64_t count = op.size.E / CLUSTER;
    return launch_overlapped(hadamard_quantize<CLUSTER>, dim3(unsigned(op.size.B * op.size.L * CLUSTER)),
                             token_threads(count), size_t(entries_bytes(count)), CLUSTER, gpu, stream, op);
}

}  // namespace quamba

extern "C" const char *quamba_HadamardQuantize_refusal(const QuambaHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    return quamba::shared_memory_refusal(quamba::entries_bytes(op->size.E));
}

extern "C" size_t quamba_HadamardQuantize_workspace(const QuambaHadamardQuantize *) { return 0; }

extern "C" int quamba_HadamardQuantize_launch(const QuambaHadamardQuantize *op, void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int64_t tokens = op->size.B * op->size.L;
    if (quamba::cluster_a_token(tokens, op->size.E, op->hadamard, gpu))
        return quamba::launch_hadamard<quamba::TOKEN_CLUSTER>(*op, gpu, stream);
    return quamba::launch_hadamard<1>(*op, gpu, stream);
}
