// C ABI of QuantizedLinear; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/int8_linear_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

extern "C" const char *quamba_QuantizedLinear_refusal(const QuambaQuantizedLinear *op) {
    return quamba::int8_linear_refusal(op->size.B, op->size.L, op->size.K, op->size.M);
}

extern "C" size_t quamba_QuantizedLinear_workspace(const QuambaQuantizedLinear *) { return 0; }

extern "C" int quamba_QuantizedLinear_launch(const QuambaQuantizedLinear *op, void *, cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const quamba::Int8Product product = {
        op->x, op->weight, op->x_stride, int(op->size.B * op->size.L), int(op->size.K), int(op->size.M)};
    const quamba::ResidualEnd end = {op->y,        op->weight_scale,    op->bias,
                                     op->residual, op->residual_stride, op->x_scale};
    return quamba::launch_int8_linear(product, end, gpu, stream);
}
