// C ABI of HalfInt4Projection; the struct is made from op.py.
#include <cuda_runtime.h>

#include "../common/half_linear_launch.cuh"
#include "contracts.h"
#include "kernel.cuh"

extern "C" const char *quamba_HalfInt4Projection_refusal(const QuambaHalfInt4Projection *op) {
    return quamba::half_linear_refusal(op->size.B, op->size.L, op->size.K, 1 << 24, op->size.M);
}

extern "C" size_t quamba_HalfInt4Projection_workspace(const QuambaHalfInt4Projection *) { return 0; }

extern "C" int quamba_HalfInt4Projection_launch(const QuambaHalfInt4Projection *op, void *, cudaStream_t stream) {
    const auto product = quamba::half_int4_product(*op);
    const quamba::HalfInt4HalfEnd end = {static_cast<__half *>(op->y), op->bias};
    return quamba::launch_half_linear<quamba::HalfInt4Format, quamba::HalfInt4Weight>(product, end, stream);
}
