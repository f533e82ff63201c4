// One token: x is normed and quantized in front of the projection's integer product (common/normed_token.cuh), and
// the channels of the convolution are convolved behind it (common/step_end.cuh).
#pragma once

#include "../RequantizedLinear/kernel.cuh"
#include "../common/int8_gemv.cuh"
#include "../common/normed_token.cuh"
#include "../common/step_end.cuh"

namespace quamba {

struct ProjectionStepEnd : StepEnd<RequantizedEnd> {
    static constexpr int DEPTH = 7, REGISTERS = 72;      // see gemv.cuh; room for a block of out_proj is left
    static constexpr bool NEXT_MAY_BEGIN_EARLY = false;  // a scan's blocks would fill what out_proj's weight needs
};

}  // namespace quamba
