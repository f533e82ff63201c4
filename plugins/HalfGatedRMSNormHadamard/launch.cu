// C ABI of HalfGatedRMSNormHadamard: GatedRMSNormHadamardQuantize's kernels, which read and write fp16.
#include "../GatedRMSNormHadamardQuantize/launch.cuh"
#include "../common/half_gate.cuh"
#include "../common/half_output.cuh"

extern "C" const char *quamba_HalfGatedRMSNormHadamard_refusal(const QuambaHalfGatedRMSNormHadamard *op) {
    return quamba::gated_refusal(op->size.E, op->n_groups);
}

extern "C" size_t quamba_HalfGatedRMSNormHadamard_workspace(const QuambaHalfGatedRMSNormHadamard *) { return 0; }

extern "C" int quamba_HalfGatedRMSNormHadamard_launch(const QuambaHalfGatedRMSNormHadamard *op, void *,
                                                      cudaStream_t stream) {
    return quamba::launch_gated<quamba::HalfGate, quamba::HalfOutput>(*op, stream);
}
