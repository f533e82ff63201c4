// C ABI of QuantizedSSDScan; the struct is made from op.py.
#include "launch.cuh"

extern "C" const char *quamba_QuantizedSSDScan_refusal(const QuambaQuantizedSSDScan *op) {
    return quamba::ssd_refusal(op->size.B, op->size.H, op->size.N);
}

extern "C" size_t quamba_QuantizedSSDScan_workspace(const QuambaQuantizedSSDScan *op) {
    return quamba::ssd_workspace(op->size.B, op->size.L, op->size.H);
}

extern "C" int quamba_QuantizedSSDScan_launch(const QuambaQuantizedSSDScan *op, void *workspace,
                                              cudaStream_t stream) {
    if (op->state_dtype == QUAMBA_INT8) return quamba::launch_state<int8_t>(*op, {}, workspace, stream);
    if (op->state_dtype == QUAMBA_FLOAT16) return quamba::launch_state<__half>(*op, {}, workspace, stream);
    return quamba::launch_state<float>(*op, {}, workspace, stream);
}
