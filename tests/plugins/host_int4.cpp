// The arithmetic of the W4A8 projections on a CPU: chunk, group and row as a warp of int4_gemv takes them.
#include <vector>

#include "../../plugins/Int4InputProjectionStep/kernel.cuh"
#include "../../plugins/Int4Linear/kernel.cuh"
#include "../../plugins/Int4RequantizedLinear/kernel.cuh"

namespace {

using namespace quamba;

uint32_t word_at(const int8_t *bytes) {
    uint32_t word;
    std::memcpy(&word, bytes, 4);
    return word;
}

int32_t dot_of_four(uint32_t a, uint32_t b, int32_t sum) {
    for (int i = 0; i < 4; i++) sum += int32_t(int8_t(a >> 8 * i)) * int32_t(int8_t(b >> 8 * i));
    return sum;
}

// Four bytes of codes, of columns j and j + 16: sixteen times the sum of their products, as mma.sync gets them.
int32_t product_of_codes(uint32_t codes, uint32_t low, uint32_t high, int32_t sum) {
    sum = dot_of_four(codes << 4 & 0xf0f0f0f0u, low, sum);
    return dot_of_four(codes & 0xf0f0f0f0u, high, sum);
}

int32_t chunk_total(const int8_t *codes, const int8_t *x) {
    int32_t total = 0;
    for (int i = 0; i < 16; i += 4)
        total = product_of_codes(word_at(codes + i), word_at(x + i), word_at(x + 16 + i), total);
    return total;
}

// scale: weight_scale (M, groups), widened from fp16 by the caller.
template <class End>
void project(const Int4Product &p, const float *scale, const End &end) {
    for (int t = 0; t < p.T; t++) {
        for (int m = 0; m < p.M; m++) {
            float sum = 0.0f;
            for (int g = 0; g < p.groups(); g++) {
                int32_t total = 0;
                for (int c = g * INT4_GROUP_CHUNKS; c < (g + 1) * INT4_GROUP_CHUNKS && c < p.chunks(); c++)
                    total += chunk_total(p.weight + (int64_t(m) * p.chunks() + c) * 16,
                                         p.x + t * p.x_stride + c * INT4_CHUNK);
                sum += group_part(total, scale[m * p.groups() + g]);
            }
            end.y[int64_t(t) * p.M + m] = end.value(sum, end.row(m), end.load(t, m));
        }
    }
}

}  // namespace

extern "C" {

void int4_residual(const int8_t *x, const int8_t *weight, const float *scale, const float *bias,
                   const float *residual, float *y, int T, int K, int M, float x_scale) {
    project({x, weight, nullptr, K, T, K, M}, scale, Int4ResidualEnd{y, bias, residual, M, x_scale});
}

void int4_requantized(const int8_t *x, const int8_t *weight, const float *scale, const float *bias,
                      const float *out_scale, int8_t *y, int T, int K, int M, float x_scale) {
    project({x, weight, nullptr, K, T, K, M}, scale, Int4RequantizedEnd{y, bias, out_scale, x_scale});
}

// The state is updated in place, as an engine has it.
void int4_step(const int8_t *x, const int8_t *weight, const float *scale, const float *bias, const float *out_scale,
               int8_t *y, int T, int K, int M, float x_scale, int8_t *state, const int8_t *conv_weight,
               const float *conv_x_scale, const float *conv_weight_scale, const float *conv_bias,
               const float *conv_out_scale, int begin, int C, int W) {
    const StepEnd<Int4RequantizedEnd> end = {y,
                                             {y, bias, out_scale, x_scale},
                                             state,
                                             conv_weight,
                                             conv_x_scale,
                                             conv_weight_scale,
                                             conv_bias,
                                             conv_out_scale,
                                             state,
                                             begin,
                                             C,
                                             W};
    project({x, weight, nullptr, K, T, K, M}, scale, Int4ProjectionStepEnd{end});
}

// A group's part of a sum as the gemv computes it, and as the tiles do from a sum that began at BIASED_ZERO.
void group_parts(const int32_t *totals, const float *scale, int count, float *plain, float *biased) {
    for (int i = 0; i < count; i++) {
        plain[i] = group_part(totals[i], scale[i]);
        biased[i] = biased_group_part(BIASED_ZERO + totals[i], scale[i] * 0.0625f);
    }
}

// Shared memory of an SM that holds a block of the step and one of out_proj: K columns of in_proj, M rows.
int step_and_out_proj_bytes(int K, int M, int multiprocessors) {
    const auto bytes = [&](int columns, int rows, int depth) {
        const GemvShape shape = gemv_shape<Int4Format>(columns, rows, 1, multiprocessors);
        return int(GemvShared<Int4Format>(columns, 1, shape, depth).bytes()) + GEMV_RESERVE;
    };
    return bytes(K, M, Int4ProjectionStepEnd::DEPTH) + bytes(2 * K, K, Int4ResidualEnd::DEPTH);
}

int step_and_out_proj_registers() {
    return GEMV_THREADS * (Int4ProjectionStepEnd::REGISTERS + Int4ResidualEnd::REGISTERS);
}
}
