// C ABI of HalfHadamard: HadamardQuantize's kernels, which write fp16.
#include "../HadamardQuantize/launch.cuh"
#include "../common/half_output.cuh"

extern "C" const char *quamba_HalfHadamard_refusal(const QuambaHalfHadamard *op) {
    return quamba::hadamard_refusal(op->size.E);
}

extern "C" size_t quamba_HalfHadamard_workspace(const QuambaHalfHadamard *) { return 0; }

extern "C" int quamba_HalfHadamard_launch(const QuambaHalfHadamard *op, void *, cudaStream_t stream) {
    return quamba::launch_hadamard<quamba::HalfOutput>(*op, stream);
}
