// C ABI of GatedRMSNormHadamardQuantize; the struct is made from op.py.
#include "../common/code_output.cuh"
#include "launch.cuh"

extern "C" const char *quamba_GatedRMSNormHadamardQuantize_refusal(
    const QuambaGatedRMSNormHadamardQuantize *op) {
    return quamba::gated_refusal(op->size.E, op->n_groups);
}

extern "C" size_t quamba_GatedRMSNormHadamardQuantize_workspace(const QuambaGatedRMSNormHadamardQuantize *) {
    return 0;
}

extern "C" int quamba_GatedRMSNormHadamardQuantize_launch(const QuambaGatedRMSNormHadamardQuantize *op,
                                                          void *, cudaStream_t stream) {
    return quamba::launch_gated<quamba::CodeGate, quamba::CodeOutput>(*op, stream);
}
