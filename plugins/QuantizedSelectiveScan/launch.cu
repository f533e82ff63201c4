// C ABI of QuantizedSelectiveScan; the struct is made from op.py.
#include "launch.cuh"

extern "C" const char *quamba_QuantizedSelectiveScan_refusal(const QuambaQuantizedSelectiveScan *op) {
    return quamba::selective_refusal(op->size.B, op->size.N);
}

extern "C" size_t quamba_QuantizedSelectiveScan_workspace(const QuambaQuantizedSelectiveScan *) { return 0; }

extern "C" int quamba_QuantizedSelectiveScan_launch(const QuambaQuantizedSelectiveScan *op, void *,
                                                    cudaStream_t stream) {
    if (op->state_dtype == QUAMBA_INT8) return quamba::launch_state<int8_t>(*op, {}, stream);
    if (op->state_dtype == QUAMBA_FLOAT16) return quamba::launch_state<__half>(*op, {}, stream);
    return quamba::launch_state<float>(*op, {}, stream);
}
