// One token behind its norm: the int4 projection's sums, its codes, and the convolution of some of them
// (common/step_end.cuh).
#pragma once

#include "../Int4RequantizedLinear/kernel.cuh"
#include "../common/step_end.cuh"

namespace quamba {

struct Int4ProjectionStepEnd : StepEnd<Int4RequantizedEnd> {
    static constexpr int DEPTH = 7, REGISTERS = 72;      // as ProjectionStepEnd has them
    static constexpr bool NEXT_MAY_BEGIN_EARLY = false;  // a scan's blocks would fill what out_proj's weight needs

    QUAMBA_HOST_DEVICE void write(int t, int m, int M, float sum) const {
        y[int64_t(t) * M + m] = value(sum, row(m), load(t, m));
    }
};

}  // namespace quamba
