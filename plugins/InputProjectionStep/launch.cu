// C ABI of InputProjectionStep; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/int8_linear_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

namespace quamba {

inline ProjectionStepEnd projection_step_end(const QuambaInputProjectionStep &op) {
    return {op.y,
            {op.y, op.weight_scale, op.bias, op.out_scale, op.norm_scale},
            op.conv_state,
            op.conv_weight,
            op.conv_x_scale,
            op.conv_weight_scale,
            op.conv_bias,
            op.conv_out_scale,
            op.conv_state_out,
            op.conv_begin,
            int(op.size.C),
            int(op.size.W)};
}

// Several tokens: their codes come from a kernel of its own, so that not every block norms all of them.
inline int launch_normed(const QuambaInputProjectionStep &op, int8_t *codes, cudaStream_t stream) {
    QuambaRMSNormQuantize norm = {};
    norm.size = {op.size.B, op.size.L, op.size.D};
    norm.epsilon = op.epsilon, norm.out_scale = op.norm_scale;
    norm.x = op.x, norm.x_stride = op.x_stride, norm.y = codes;
    return quamba_RMSNormQuantize_launch(&norm, nullptr, stream);
}

}  // namespace quamba

extern "C" const char *quamba_InputProjectionStep_refusal(const QuambaInputProjectionStep *op) {
    if (op->size.L != 1) {
        return "L must be 1: this is the step of one token; a prompt takes RMSNormQuantize, RequantizedLinear "
               "and QuantizedCausalConv1d";
    }
    if (op->size.W < 2 || op->size.W > quamba::LARGEST_WIDTH)
        return "W, the width of the convolution, must be 2, 3 or 4";
    if (op->conv_begin < 0 || op->conv_begin + op->size.C > op->size.M)
        return "the rows conv_begin .. conv_begin + C must lie within the M rows of the projection";
    return quamba::int8_linear_refusal(op->size.B, op->size.L, op->size.D, op->size.M);
}

extern "C" size_t quamba_InputProjectionStep_workspace(const QuambaInputProjectionStep *op) {
    return op->size.B * op->size.D;
}

extern "C" int quamba_InputProjectionStep_launch(const QuambaInputProjectionStep *op, void *workspace,
                                                 cudaStream_t stream) {
    quamba::Gpu gpu = {};
    cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int K = int(op->size.D);
    int8_t *codes = static_cast<int8_t *>(workspace);
    const quamba::Int8Product product = {codes, op->weight, K, int(op->size.B), K, int(op->size.M)};
    const quamba::ProjectionStepEnd end = quamba::projection_step_end(*op);
    if (product.T == 1 && quamba::takes_gemv<quamba::Int8Format, quamba::ProjectionStepEnd>(product, gpu)) {
        const bool aligned = reinterpret_cast<uintptr_t>(op->x) % 16 == 0 && K % 4 == 0;
        const quamba::NormedToken token = {op->x, op->epsilon, op->norm_scale, aligned};
        return quamba::launch_gemv<quamba::Int8Format>(product, token, end,
                                                       quamba::aligned_rows(product.weight, K, K), gpu, stream);
    }
    const int status = quamba::launch_normed(*op, codes, stream);
    return status == 0 ? quamba::launch_int8_linear(product, end, gpu, stream) : status;
}
