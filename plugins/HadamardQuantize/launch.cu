// C ABI of HadamardQuantize; the struct is made from op.py.
#include "../common/code_output.cuh"
#include "launch.cuh"

extern "C" const char *quamba_HadamardQuantize_refusal(const QuambaHadamardQuantize *op) {
    return quamba::hadamard_refusal(op->size.E);
}

extern "C" size_t quamba_HadamardQuantize_workspace(const QuambaHadamardQuantize *) { return 0; }

extern "C" int quamba_HadamardQuantize_launch(const QuambaHadamardQuantize *op, void *, cudaStream_t stream) {
    return quamba::launch_hadamard<quamba::CodeOutput>(*op, stream);
}
