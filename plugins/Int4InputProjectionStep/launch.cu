// C ABI of Int4InputProjectionStep; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/int4_linear_launch.cuh"
#include "../common/step_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

namespace quamba {

inline Int4ProjectionStepEnd projection_step_end(const QuambaInt4InputProjectionStep &op) {
    return {step_end(op, Int4RequantizedEnd{op.y, op.bias, op.out_scale, op.norm_scale})};
}

}  // namespace quamba

extern "C" const char *quamba_Int4InputProjectionStep_refusal(const QuambaInt4InputProjectionStep *op) {
    const char *refusal = quamba::step_refusal(*op);
    return refusal != nullptr ? refusal
                              : quamba::int4_linear_refusal(op->size.B, op->size.L, op->size.D, op->size.M);
}

extern "C" size_t quamba_Int4InputProjectionStep_workspace(const QuambaInt4InputProjectionStep *op) {
    return op->size.B * op->size.D;
}

extern "C" int quamba_Int4InputProjectionStep_launch(const QuambaInt4InputProjectionStep *op, void *workspace,
                                                     cudaStream_t stream) {
    quamba::Gpu gpu = {};
    cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int K = int(op->size.D);
    int8_t *codes = static_cast<int8_t *>(workspace);
    const quamba::Int4Product product = {codes,
                                         op->weight,
                                         static_cast<const uint16_t *>(op->weight_scale),
                                         K,
                                         int(op->size.B),
                                         K,
                                         int(op->size.M)};
    const quamba::Int4ProjectionStepEnd end = quamba::projection_step_end(*op);
    if (product.T == 1 && quamba::takes_gemv<quamba::Int4Format, quamba::Int4ProjectionStepEnd>(product, gpu)) {
        return quamba::launch_gemv<quamba::Int4Format>(product, quamba::normed_token(*op), end,
                                                       quamba::whole_chunks(product.weight, K / 2, K / 2), gpu, stream);
    }
    const int status = quamba::launch_step_norm(*op, codes, stream);
    return status == 0 ? quamba::launch_int4_linear(product, end, stream) : status;
}
