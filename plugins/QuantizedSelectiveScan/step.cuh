// One token (L = 1) of the recurrence of op.py: what does not depend on the inputs is found before they are
// there, the rest takes one read, the step, a decay and the tree sum, without a barrier.
//
// LANES lanes of a warp own one channel e, lane l the entries n = l + LANES k, and each finds the step for
// itself. z is a code: each thread of a block finds the gate of one of its 256 values.
#pragma once

#include "kernel.cuh"

namespace quamba {

constexpr int SELECTIVE_STEP_THREADS = 256;

// Grid: channels in blocks, B.
template <class Stored, int LANES, int N_LANE>
__global__ void __launch_bounds__(SELECTIVE_STEP_THREADS)
    selective_one_token(QuambaQuantizedSelectiveScan op, RowScales rows) {
    constexpr bool ROW_SCALES = HAS_ROW_SCALES<Stored>;
    __shared__ float gates[256];  // by the code of z
    let_next_kernel_begin();
    const int lane = threadIdx.x % LANES, N = int(op.size.N), E = int(op.size.E);
    const int channel = blockIdx.x * (SELECTIVE_STEP_THREADS / LANES) + threadIdx.x / LANES;
    const int64_t b = blockIdx.y, e = min(channel, E - 1), at = (b * E + e) * N + lane;
    const Stored *state = found_now(static_cast<const Stored *>(op.state) + at);
    if (lane < N) prefetch_into_L2(state);

    int8_t A_log[N_LANE];
    const int8_t dt_bias_code = op.dt_bias[e], D_code = op.D[e];
    float A[N_LANE];
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        A_log[k] = lane + LANES * k < N ? op.A_log[e * N + lane + LANES * k] : int8_t(0);
    }
#pragma unroll
    for (int k = 0; k < N_LANE; k++) A[k] = -exp_rounded_soon(dequantized(A_log[k], op.A_log_scale));
    const float dt_bias = dequantized(dt_bias_code, op.dt_bias_scale), D = dequantized(D_code, op.D_scale);
    gates[threadIdx.x] = silu_soon(dequantized(static_cast<int8_t>(threadIdx.x), op.z_scale));
    __syncthreads();

    wait_for_inputs();
    const int8_t dt = op.dt[b * op.dt_stride + e], x_code = op.x[b * op.x_stride + e];
    const uint8_t z = static_cast<uint8_t>(op.z[b * op.z_stride + e]);
    int8_t B[N_LANE], C[N_LANE];
    Stored held[N_LANE];
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const int n = lane + LANES * k;
        B[k] = n < N ? op.B[b * op.B_stride + n] : int8_t(0);
        C[k] = n < N ? op.C[b * op.C_stride + n] : int8_t(0);
        held[k] = n < N ? state[LANES * k] : Stored{};
    }
    const float state_scale = ROW_SCALES ? rows.in[b * E + e] : op.state_scale;
    const float step = softplus_soon(dequantized(dt, op.dt_scale) + dt_bias);
    const float x = dequantized(x_code, op.x_scale), input = step * x;
    float next[N_LANE], read[N_LANE];
#pragma unroll
    for (int k = 0; k < N_LANE; k++) {
        const float h = State<Stored>::load(held[k], state_scale);
        next[k] = next_state(h, exp_rounded_soon(step * A[k]), input, dequantized(B[k], op.B_scale));
        read[k] = next[k] * dequantized(C[k], op.C_scale);
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
    const float y = (lane_sums<1, LANES / 2>(sum) + D * x) * gates[z];
    if (lane == 0 && channel < E) op.y[b * E + e] = y;
}

}  // namespace quamba
