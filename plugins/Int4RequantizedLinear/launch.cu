// C ABI of Int4RequantizedLinear; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/int4_linear_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

extern "C" const char *quamba_Int4RequantizedLinear_refusal(const QuambaInt4RequantizedLinear *op) {
    return quamba::int4_linear_refusal(op->size.B, op->size.L, op->size.K, op->size.M);
}

extern "C" size_t quamba_Int4RequantizedLinear_workspace(const QuambaInt4RequantizedLinear *) { return 0; }

extern "C" int quamba_Int4RequantizedLinear_launch(const QuambaInt4RequantizedLinear *op, void *, cudaStream_t stream) {
    const quamba::Int4Product product = {op->x,
                                         op->weight,
                                         static_cast<const uint16_t *>(op->weight_scale),
                                         op->x_stride,
                                         int(op->size.B * op->size.L),
                                         int(op->size.K),
                                         int(op->size.M)};
    const quamba::Int4RequantizedEnd end = {op->y, op->bias, op->out_scale, op->x_scale};
    return quamba::launch_int4_linear(product, end, stream);
}
