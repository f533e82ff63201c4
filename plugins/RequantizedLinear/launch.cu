// C ABI of RequantizedLinear; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/int8_linear_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

extern "C" const char *quamba_RequantizedLinear_refusal(const QuambaRequantizedLinear *op) {
    return quamba::int8_linear_refusal(op->size.B, op->size.L, op->size.K, op->size.M);
}

extern "C" size_t quamba_RequantizedLinear_workspace(const QuambaRequantizedLinear *) { return 0; }

extern "C" int quamba_RequantizedLinear_launch(const QuambaRequantizedLinear *op, void *,
                                               cudaStream_t stream) {
    quamba::Gpu gpu = {};
    const cudaError_t error = quamba::current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const quamba::Int8Product product = {
        op->x, op->weight, op->x_stride, int(op->size.B * op->size.L), int(op->size.K), int(op->size.M)};
    const quamba::RequantizedEnd end = {op->y, op->weight_scale, op->bias, op->out_scale, op->x_scale};
    return quamba::launch_int8_linear(product, end, gpu, stream);
}
