// What the launchers of the step of one token share, whatever the weight of in_proj is. OP: the struct of the op.
#pragma once

#include "contracts.h"
#include "normed_token.cuh"
#include "step_end.cuh"

namespace quamba {

// NULL, or why a step of these sizes is not supported.
template <class OP>
const char *step_refusal(const OP &op) {
    if (op.size.L != 1) return "L must be 1: this is the step of one token; a prompt takes norm, projection and "
                               "convolution one by one";
    if (op.size.W < 2 || op.size.W > LARGEST_WIDTH) return "W, the width of the convolution, must be 2, 3 or 4";
    if (op.conv_begin < 0 || op.conv_begin + op.size.C > op.size.M)
        return "the rows conv_begin .. conv_begin + C must lie within the M rows of the projection";
    return nullptr;
}

// projection: the end of the op's own projection.
template <class OP, class Projection>
StepEnd<Projection> step_end(const OP &op, const Projection &projection) {
    return {op.y,
            projection,
            op.conv_state,
            op.conv_weight,
            op.conv_x_scale,
            op.conv_weight_scale,
            op.conv_bias,
            op.conv_out_scale,
            op.conv_state_out,
            op.conv_begin,
            int(op.size.C),
            int(op.size.W)};
}

// Of a single token.
template <class OP>
NormedToken normed_token(const OP &op) {
    const bool aligned = reinterpret_cast<uintptr_t>(op.x) % 16 == 0 && op.size.D % 4 == 0;
    return {op.x, op.epsilon, op.norm_scale, aligned};
}

// Several tokens: their codes (B, D) come from a kernel of its own, so that not every block norms all of them.
template <class OP>
int launch_step_norm(const OP &op, int8_t *codes, cudaStream_t stream) {
    QuambaRMSNormQuantize norm = {};
    norm.size = {op.size.B, op.size.L, op.size.D};
    norm.epsilon = op.epsilon, norm.out_scale = op.norm_scale;
    norm.x = op.x, norm.x_stride = op.x_stride, norm.y = codes;
    return quamba_RMSNormQuantize_launch(&norm, nullptr, stream);
}

}  // namespace quamba
