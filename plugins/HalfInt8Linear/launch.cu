// C ABI of HalfInt8Linear; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/half_linear_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

extern "C" const char *quamba_HalfInt8Linear_refusal(const QuambaHalfInt8Linear *op) {
    return quamba::half_linear_refusal(op->size.B, op->size.L, op->size.K, quamba::HALF_INT8_LARGEST_K, op->size.M);
}

extern "C" size_t quamba_HalfInt8Linear_workspace(const QuambaHalfInt8Linear *) { return 0; }

extern "C" int quamba_HalfInt8Linear_launch(const QuambaHalfInt8Linear *op, void *, cudaStream_t stream) {
    const auto product = quamba::half_int8_product(*op);
    const quamba::HalfInt8ResidualEnd end = {op->y, op->weight_scale, op->bias, op->residual, op->residual_stride};
    return quamba::launch_half_linear<quamba::HalfInt8Format, quamba::HalfInt8Weight>(product, end, stream);
}
