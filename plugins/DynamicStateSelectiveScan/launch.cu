// C ABI of DynamicStateSelectiveScan: QuantizedSelectiveScan's kernels with a scale beside every row of the state.
#include "../QuantizedSelectiveScan/launch.cuh"

namespace quamba {

static QuambaQuantizedSelectiveScan static_call(const QuambaDynamicStateSelectiveScan &op) {
    QuambaQuantizedSelectiveScan call = {};
    call.size = {op.size.B, op.size.L, op.size.E, op.size.N};
    call.x = op.x, call.dt = op.dt, call.A_log = op.A_log, call.B = op.B, call.C = op.C, call.D = op.D;
    call.z = op.z, call.dt_bias = op.dt_bias, call.state = op.state;
    call.y = op.y, call.state_out = op.state_out;
    call.x_stride = op.x_stride, call.dt_stride = op.dt_stride, call.z_stride = op.z_stride;
    call.B_stride = op.B_stride, call.C_stride = op.C_stride;
    call.x_scale = op.x_scale, call.dt_scale = op.dt_scale, call.A_log_scale = op.A_log_scale;
    call.B_scale = op.B_scale, call.C_scale = op.C_scale, call.D_scale = op.D_scale;
    call.z_scale = op.z_scale, call.dt_bias_scale = op.dt_bias_scale;
    return call;
}

}  // namespace quamba

extern "C" const char *quamba_DynamicStateSelectiveScan_refusal(const QuambaDynamicStateSelectiveScan *op) {
    return quamba::selective_refusal(op->size.B, op->size.N);
}

extern "C" size_t quamba_DynamicStateSelectiveScan_workspace(const QuambaDynamicStateSelectiveScan *) {
    return 0;
}

extern "C" int quamba_DynamicStateSelectiveScan_launch(const QuambaDynamicStateSelectiveScan *op, void *,
                                                       cudaStream_t stream) {
    using Call = QuambaQuantizedSelectiveScan;
    const auto launch = op->stochastic ? quamba::launch_state<quamba::ChanceCode, Call>
                                       : quamba::launch_state<quamba::RowCode, Call>;
    return launch(quamba::static_call(*op), {op->row_scale, op->row_scale_out}, stream);
}
