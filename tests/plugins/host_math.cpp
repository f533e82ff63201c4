// The host-device parts of plugins/common for test_host_math.py and test_host_decay.py: scalar mathematics over
// arrays, and what a block or a warp does with them replayed as loops over its threads.
#include "../../plugins/common/decay.cuh"
#include "../../plugins/common/fixed_point.cuh"
#include "../../plugins/common/half_gate.cuh"
#include "../../plugins/common/numeric.cuh"
#include "../../plugins/common/state.cuh"
#include "../../plugins/common/warp.cuh"

using namespace quamba;

namespace {

constexpr int LANES = 32;

// The tree sum of N <= 32 N_LANE products as a warp takes it: entries n = lane + 32 k, then exchanges.
template <int N_LANE>
float warp_tree_sum(const float *products, int N) {
    float sums[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        float entries[N_LANE];
        for (int k = 0; k < N_LANE; k++) entries[k] = lane + 32 * k < N ? products[lane + 32 * k] : 0.0f;
        sums[lane] = in_lane_sum(entries);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        for (int lane = 0; lane < distance; lane++) sums[lane] += sums[lane + distance];
    }
    return sums[0];
}

// h (count) in place behind one token, and h C unrounded.
template <class Stored>
void step_state(Stored *stored, float scale, float decay, float input, const float *B, const float *C,
                int count, float *read) {
    for (int n = 0; n < count; n++) {
        const float next = next_state(State<Stored>::load(stored[n], scale), decay, input, B[n]);
        read[n] = next * C[n];
        stored[n] = State<Stored>::store(next, scale);
    }
}

// What the lanes of a warp hold of POWERS.
template <class Entry>
struct HostPowers {
    Entry entries[32];

    HostPowers() {
        for (int j = 0; j < 32; j++) entries[j] = Entry::entry(j, POWERS);
    }
    Entry operator()(int m) const { return entries[m & 31]; }
};

bool same_bits(float a, float b) { return memcmp(&a, &b, sizeof(a)) == 0; }

}  // namespace

extern "C" {

// Of the floats whose bits are first, first + stride, .. to last: how many decay_wide() and decay_narrow() turn
// into other bits than decay_rounded(), how many of -87.25 and above decay_narrow() leaves open, and how many
// there are.
void compare_decays(uint32_t first, uint32_t last, uint32_t stride, int64_t *counts) {
    const HostPowers<WidePower> wide;
    const HostPowers<NarrowPower> narrow;
    for (uint64_t bits = first; bits <= last; bits += stride) {
        const uint32_t low = uint32_t(bits);
        float x;
        memcpy(&x, &low, sizeof(x));
        const float expected = decay_rounded(x), closed = decay_narrow(x, narrow);
        counts[0] += !same_bits(decay_wide(x, wide), expected);
        counts[1] += !std::isnan(closed) && !same_bits(closed, expected);
        counts[2] += std::isnan(closed) && x >= -87.25f;
        counts[3]++;
    }
}

void decay_powers(double *powers) { memcpy(powers, POWERS, sizeof(POWERS)); }

void quantize_all(const float *x, int count, float scale, int8_t *y) {
    for (int i = 0; i < count; i++) y[i] = quantized(x[i], scale);
}

void silu_all(const float *x, int count, float *y) {
    for (int i = 0; i < count; i++) y[i] = silu(x[i]);
}

void softplus_all(const float *x, int count, float *y) {
    for (int i = 0; i < count; i++) y[i] = softplus(x[i]);
}

void exp_all(const float *x, int count, float *y) {
    for (int i = 0; i < count; i++) y[i] = exp_rounded(x[i]);
}

void decay_all(const float *x, int count, float *y) {
    for (int i = 0; i < count; i++) y[i] = decay_rounded(x[i]);
}

void exp_soon_all(const float *x, int count, float *y) {
    for (int i = 0; i < count; i++) y[i] = exp_rounded_soon(x[i]);
}

void softplus_soon_all(const float *x, int count, float *y) {
    for (int i = 0; i < count; i++) y[i] = softplus_soon(x[i]);
}

void silu_soon_all(const float *x, int count, float *y) {
    for (int i = 0; i < count; i++) y[i] = silu_soon(x[i]);
}

void silu_of_half_all(const float *z, int count, float *y) {
    const HostPowers<NarrowPower> powers;
    for (int i = 0; i < count; i++) y[i] = silu_of_half(z[i], powers);
}

void wide_exp_soon_all(const double *x, int count, double *y) {
    for (int i = 0; i < count; i++) y[i] = exp_soon(x[i]);
}

void wide_log1p_soon_all(const double *x, int count, double *y) {
    for (int i = 0; i < count; i++) y[i] = log1p_soon(x[i]);
}

void quantized_silu_all(const float *x, int count, float scale, int8_t *y) {
    for (int i = 0; i < count; i++) y[i] = quantized_silu(x[i], scale);
}

// The codes of silu_code(); returns how many it is not sure of.
int silu_codes(const float *x, int count, float scale, int8_t *y) {
    int unsure = 0;
    for (int i = 0; i < count; i++) {
        const EstimatedCode code = silu_code(x[i], plain_reciprocal(scale), silu_margin(scale));
        y[i] = code.sure ? static_cast<int8_t>(code.bits) : quantized(silu(x[i]), scale);
        unsure += !code.sure;
    }
    return unsure;
}

void quantized_by_all(const float *x, int count, float scale, int8_t *y) {
    const float reciprocal = plain_reciprocal(scale);
    for (int i = 0; i < count; i++) y[i] = quantized_by(x[i], scale, reciprocal);
}

void quantized_anyhow_all(const float *x, int count, float scale, int8_t *y) {
    for (int i = 0; i < count; i++) y[i] = quantized_anyhow(x[i], scale);
}

void quantized_quotient_all(const float *x, int count, float root, float scale, int8_t *y) {
    const float reciprocal = quotient_reciprocal(root, scale);
    for (int i = 0; i < count; i++) y[i] = quantized_quotient(x[i], root, scale, reciprocal);
}

float root_of(const float *x, int count, float epsilon) {
    double sum = 0.0;
    for (int i = 0; i < count; i++) sum += static_cast<double>(x[i]) * x[i];
    return root_mean_square(sum, count, epsilon);
}

float tree_sum_of(const float *products, int N) {
    if (N <= 32) return warp_tree_sum<1>(products, N);
    if (N <= 64) return warp_tree_sum<2>(products, N);
    if (N <= 128) return warp_tree_sum<4>(products, N);
    return warp_tree_sum<8>(products, N);
}

void step_float(float *h, float decay, float input, const float *B, const float *C, int N, float *read) {
    step_state(h, 1.0f, decay, input, B, C, N, read);
}

void step_int8(int8_t *h, float scale, float decay, float input, const float *B, const float *C, int N,
               float *read) {
    step_state(h, scale, decay, input, B, C, N, read);
}

// What the registers of a kernel hold behind a token is what its stored code means.
void rounded_int8(const float *h, int count, float scale, float *y) {
    for (int i = 0; i < count; i++) y[i] = State<int8_t>::rounded(h[i], scale);
}

// y = value / root; returns for how many the division had to be done.
int divide_by_root(const float *value, int count, float root, float *y) {
    const Root by = Root::of(root);
    int refused = 0;
    for (int i = 0; i < count; i++) {
        y[i] = by.divides(value[i]) ? by.divide(value[i]) : value[i] / root;
        refused += !by.divides(value[i]);
    }
    return refused;
}

int divide_by(int divisor, int n) { return Divisor(divisor).divide(n); }

// Rows of `columns` values, a multiple of four: the unit of each, and the two codes of each value.
void fixed_points(const float *x, int rows, int columns, float *units, int8_t *low, int8_t *high) {
    for (int row = 0; row < rows; row++) {
        float largest = 0.0f;
        for (int i = 0; i < columns; i++) largest = fmaxf(largest, fabsf(x[row * columns + i]));
        const FixedUnit fixed = fixed_unit(largest);
        units[row] = fixed.unit;
        for (int i = 0; i < columns; i += 4) {
            uint32_t bits[4];
            for (int k = 0; k < 4; k++) bits[k] = fixed_bits(x[row * columns + i + k], fixed.inverse);
            const FixedWords words = fixed_words(bits);
            memcpy(low + row * columns + i, &words.low, sizeof(words.low));
            memcpy(high + row * columns + i, &words.high, sizeof(words.high));
        }
    }
}

void turn_words(uint32_t *words) {
    uint32_t turned[4];
    memcpy(turned, words, sizeof(turned));
    transpose_bytes(turned);
    memcpy(words, turned, sizeof(turned));
}
}
