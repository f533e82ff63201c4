// One token of a W4A8 layer: normed in front of the int4 product (common/normed_token.cuh), convolved behind it
// (common/step_end.cuh).
#pragma once

#include "../Int4RequantizedLinear/kernel.cuh"
#include "../common/int4_gemv.cuh"
#include "../common/normed_token.cuh"
#include "../common/step_end.cuh"

namespace quamba {

struct Int4ProjectionStepEnd : StepEnd<Int4RequantizedEnd> {
    static constexpr int DEPTH = 6, REGISTERS = 72;      // see gemv.cuh; room for a block of out_proj is left
    static constexpr bool NEXT_MAY_BEGIN_EARLY = false;  // a scan's blocks would fill what out_proj's weight needs
};

}  // namespace quamba
