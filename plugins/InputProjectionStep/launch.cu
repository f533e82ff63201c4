// C ABI of InputProjectionStep; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/int8_linear_launch.cuh"
#include "../common/step_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

namespace quamba {

inline ProjectionStepEnd projection_step_end(const QuambaInputProjectionStep &op) {
    return {step_end(op, RequantizedEnd{op.y, op.weight_scale, op.bias, op.out_scale, op.norm_scale})};
}

}  // namespace quamba

extern "C" const char *quamba_InputProjectionStep_refusal(const QuambaInputProjectionStep *op) {
    const char *refusal = quamba::step_refusal(*op);
    return refusal != nullptr ? refusal
                              : quamba::int8_linear_refusal(op->size.B, op->size.L, op->size.D, op->size.M);
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
        return quamba::launch_gemv<quamba::Int8Format>(product, quamba::normed_token(*op), end,
                                                       quamba::whole_chunks(product.weight, K, K), gpu, stream);
    }
    const int status = quamba::launch_step_norm(*op, codes, stream);
    return status == 0 ? quamba::launch_int8_linear(product, end, gpu, stream) : status;
}
