// C ABI of DynamicStateSSDScan: QuantizedSSDScan's kernels with a scale beside every row of the state.
#include "../QuantizedSSDScan/launch.cuh"

namespace quamba {

static QuambaQuantizedSSDScan static_call(const QuambaDynamicStateSSDScan &op) {
    QuambaQuantizedSSDScan call = {};
    call.size = {op.size.B, op.size.L, op.size.H, op.size.P, op.size.G, op.size.N, op.size.S};
    call.x = op.x, call.dt = op.dt, call.A_log = op.A_log, call.B = op.B, call.C = op.C, call.D = op.D;
    call.dt_bias = op.dt_bias, call.x_scale = op.x_scale, call.B_scale = op.B_scale, call.C_scale = op.C_scale;
    call.scale_index = op.scale_index, call.state = op.state;
    call.y = op.y, call.state_out = op.state_out;
    call.x_stride = op.x_stride, call.dt_stride = op.dt_stride;
    call.B_stride = op.B_stride, call.C_stride = op.C_stride;
    call.dt_scale = op.dt_scale, call.dt_min = op.dt_min, call.dt_max = op.dt_max;
    return call;
}

}  // namespace quamba

extern "C" const char *quamba_DynamicStateSSDScan_refusal(const QuambaDynamicStateSSDScan *op) {
    return quamba::ssd_refusal(op->size.B, op->size.H, op->size.N);
}

extern "C" size_t quamba_DynamicStateSSDScan_workspace(const QuambaDynamicStateSSDScan *op) {
    return quamba::steps_bytes(op->size.B, op->size.L, op->size.H);
}

extern "C" int quamba_DynamicStateSSDScan_launch(const QuambaDynamicStateSSDScan *op, void *workspace,
                                                 cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    using Call = QuambaQuantizedSSDScan;
    const auto launch = op->stochastic ? quamba::launch_tokens<quamba::ChanceCode, Call>
                                       : quamba::launch_tokens<quamba::RowCode, Call>;
    return launch(quamba::static_call(*op), {op->row_scale, op->row_scale_out},
                  static_cast<quamba::SSDStep *>(workspace), 0, gpu, stream);
}
