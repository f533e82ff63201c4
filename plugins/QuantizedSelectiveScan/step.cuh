// One token (L = 1) of the recurrence of op.py: what does not depend on the inputs is found before they are
// there, the rest takes one read, the step, a decay and the tree sum, without a barrier.
//
// LANES lanes of a warp own one channel e, lane l the entries n = l + LANES k, and each finds the step for
// itself. Where z is a code, each thread of a block finds the gate of one of its 256 values.
#pragma once

#include "kernel.cuh"

namespace quamba {

constexpr int SELECTIVE_STEP_THREADS = 256;

// Grid: channels in blocks, B.
template <class Stored, int LANES, int N_LANE, class Op>
__global__ void __launch_bounds__(SELECTIVE_STEP_THREADS) selective_one_token(Op op, RowScales rows) {
    using Inputs = SelectiveInputs<Op>;
    constexpr bool ROW_SCALES = HAS_ROW_SCALES<Stored>;
    using Element = typename Inputs::Element;
    using Constant = typename Inputs::Constant;
    __shared__ typename Inputs::Gate gate;
    let_next_kernel_begin();
    const int lane = threadIdx.x % LANES, N = int(op.size.N), E = int(op.size.E);
    const int channel = blockIdx.x * (SELECTIVE_STEP_THREADS / LANES) + threadIdx.x / LANES;
    const int64_t b = blockIdx.y, e = min(channel, E - 1), at = (b * E + e) * N + lane;
    const Stored *state = found_now(static_cast<const Stored *>(op.state) + at);
    if (lane < N) prefetch_into_L2(state);

    Constant A_log[N_LANE];
    const Constant dt_bias_held = op.dt_bias[e], D_held = op.D[e];
    float A[N_LANE];
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        A_log[k] = lane + LANES * k < N ? op.A_log[e * N + lane + LANES * k] : Constant(0);
    }
#pragma unroll
    for (int k = 0; k < N_LANE; k++) A[k] = -exp_rounded_soon(Inputs::A_log(op, A_log[k]));
    const float dt_bias = Inputs::dt_bias(op, dt_bias_held), D = Inputs::D(op, D_held);
    gate.set(op, threadIdx.x);
    __syncthreads();

    wait_for_inputs();
    const Element dt = elements<Op>(op.dt)[b * op.dt_stride + e], x_held = elements<Op>(op.x)[b * op.x_stride + e];
    const Element z = elements<Op>(op.z)[b * op.z_stride + e];
    Element B[N_LANE], C[N_LANE];
    Stored held[N_LANE];
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const int n = lane + LANES * k;
        B[k] = n < N ? elements<Op>(op.B)[b * op.B_stride + n] : Element{};
        C[k] = n < N ? elements<Op>(op.C)[b * op.C_stride + n] : Element{};
        held[k] = n < N ? state[LANES * k] : Stored{};
    }
    const float state_scale = ROW_SCALES ? rows.in[b * E + e] : Inputs::state_scale(op);
    const float step = softplus_soon(Inputs::dt(op, dt) + dt_bias);
    const float x = Inputs::x(op, x_held), input = step * x;
    float next[N_LANE], read[N_LANE];
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const float h = State<Stored>::load(held[k], state_scale);
        next[k] = next_state(h, exp_rounded_soon(step * A[k]), input, Inputs::B(op, B[k]));
        read[k] = next[k] * Inputs::C(op, C[k]);
    }
    RowScale row{};
    if constexpr (ROW_SCALES) row = found_row_scale<LANES>(next);
    Stored *out = static_cast<Stored *>(op.state_out) + at;
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        if (channel >= E || lane + LANES * k >= N) continue;
        if constexpr (ROW_SCALES) {
            out[LANES * k] = {static_cast<int8_t>(row.steps<Stored>(next[k]))};
        } else {
            out[LANES * k] = State<Stored>::store(next[k], state_scale);
        }
    }
    if (ROW_SCALES && channel < E && lane == 0) rows.out[b * E + e] = row.scale;
    float sum[1] = {in_lane_sum(read)};
    const float y = (lane_sums<1, LANES / 2>(sum) + D * x) * gate(z);
    if (lane == 0 && channel < E) op.y[b * E + e] = y;
}

}  // namespace quamba
