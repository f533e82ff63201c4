// The host-device parts of plugins/common for test_host_math.py and test_host_decay.py: scalar mathematics over
// arrays, and what a block or a warp does with them replayed as loops over its threads.
#include "../../plugins/common/decay.cuh"
#include "../../plugins/common/fixed_point.cuh"
#include "../../plugins/common/hadamard_part.cuh"
#include "../../plugins/common/hadamard_whole.cuh"
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

template <int ORDER>
void replay_base_pass(double *entries, int power, bool looped) {
    constexpr auto FOURS = std::make_integer_sequence<int, ORDER / 4>();
    constexpr int QUARTER = ORDER / 4, ROWS = ORDER / base_shares(ORDER);
    for (int q = 0; q < power; q++) {
        double shares[2][ROWS], quarters[4][QUARTER];
        const double *column = entries + place(q);
        base_rows<ORDER, 0>(shares[0], column, place(power), FOURS);
        base_rows<ORDER, ORDER - ROWS>(shares[1], column, place(power), FOURS);
        for (int quarter = 0; quarter < 4; quarter++) {
            looped_base_rows<ORDER>(quarters[quarter], entries, power, q, quarter, std::make_integer_sequence<int, QUARTER>());
        }
        for (int i = 0; i < ORDER; i++)
            entries[place(i * power + q)] = looped ? quarters[i / QUARTER][i % QUARTER] : shares[i / ROWS][i % ROWS];
    }
}

template <int RADIX>
void replay_sylvester_pass(double *entries, int size, int shift) {
    for (int i = 0; i < size / RADIX; i++) sylvester_group<RADIX>(entries, i, shift);
}

void replay_sylvester_passes(double *entries, int size, int power, int shift) {
    for (; 16 << shift <= power; shift += 4) replay_sylvester_pass<16>(entries, size, shift);
    const int rest = power >> shift;
    if (rest == 8) replay_sylvester_pass<8>(entries, size, shift);
    if (rest == 4) replay_sylvester_pass<4>(entries, size, shift);
    if (rest == 2) replay_sylvester_pass<2>(entries, size, shift);
}

// The Sylvester levels of 1 << shift and above, up to those of `power` entries, and the base.
void replay_transform(double *entries, HadamardShape shape, int power, int shift, bool looped) {
    replay_sylvester_passes(entries, shape.base * shape.power * shape.blocks, power, shift);
    if (shape.base == 12) replay_base_pass<12>(entries, shape.power, looped);
    if (shape.base == 20) replay_base_pass<20>(entries, shape.power, looped);
    if (shape.base == 28) replay_base_pass<28>(entries, shape.power, looped);
}

// The levels that lanes take, on a position a lane.
void replay_lane_levels(double *entries, const TokenPart &part) {
    for (int level = 0; level < part.lane_levels(); level++) {
        for (int p = 0; p < part.count; p++) {
            const int other = p ^ 1 << level;
            if (other < p) continue;
            const double lower = entries[place(p)], upper = entries[place(other)];
            entries[place(p)] = level_of_pair(lower, upper, false);
            entries[place(other)] = level_of_pair(upper, lower, true);
        }
    }
}

// A transform whose first and last levels are taken in registers; -1 where a block has not the threads for it.
template <int RADIX>
int hadamard_as_a_whole(const float *x, int size, float *y, double *entries) {
    const WholeToken<RADIX> whole(size);
    const int threads = whole_threads(size);
    if (threads > 1024 || threads < whole.groups() || threads < size / LAST_RADIX) return -1;
    for (int group = 0; group < whole.groups(); group++) {
        double v[RADIX];
        for (int k = 0; k < RADIX; k++) v[k] = x[whole.entry(group) + k * whole.apart];
        butterflies(v);
        for (int k = 0; k < RADIX; k++) entries[place(whole.entry(group) + k * whole.apart)] = v[k];
    }
    replay_transform(entries, {whole.shape.base, whole.shape.power, whole.shape.blocks}, whole.apart, 4, false);
    replay_sylvester_pass<LAST_RADIX>(entries, size, 0);
    for (int i = 0; i < size; i++) y[i] = static_cast<float>(entries[place(i)] * hadamard_unit(whole.shape));
    return 0;
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
        const EstimatedCode code = silu_code(x[i], plain_reciprocal(scale), has_plain_reciprocal(scale) ? 1e-7f : INFINITY);
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

void base_signs(int order, int8_t *matrix) {
    for (int i = 0; i < order; i++) {
        for (int j = 0; j < order; j++) matrix[i * order + j] = negative_entries(order, j) >> i & 1 ? -1 : 1;
    }
}

void hadamard_of(const float *x, int size, float *y, double *entries) {
    for (int i = 0; i < size; i++) entries[place(i)] = x[i];
    const HadamardShape shape = hadamard_shape(size);
    replay_transform(entries, shape, shape.power, 0, true);
    const double unit = hadamard_unit(shape);
    for (int i = 0; i < size; i++) y[i] = static_cast<float>(entries[place(i)] * unit);
}

// The same with the first and the last levels in registers; -1 where a block has not the threads for it.
int hadamard_by_whole_tokens(const float *x, int size, float *y, double *entries) {
    return first_radix(hadamard_shape(size)) == 16 ? hadamard_as_a_whole<16>(x, size, y, entries)
                                                   : hadamard_as_a_whole<8>(x, size, y, entries);
}

// The same by PARTS blocks, one after the other; -1 where a block has not the threads for it.
int hadamard_in_parts(const float *x, int size, float *y, double *entries) {
    for (int k = 0; k < PARTS; k++) {
        const TokenPart part(size, k);
        const int threads = part_threads(part.count);
        if (threads > 1024 || part_items(part.count) * threads < part.count) return -1;
        if (part.shape.base > 1 && 4 * 32 > threads) return -1;
        for (int p = 0; p < part.count; p++) {
            double v[PARTS];
            for (int c = 0; c < PARTS; c++) v[c] = x[part.entry(p, c)];
            entries[place(p)] = fold_position(v, k);
        }
        replay_lane_levels(entries, part);
        replay_transform(entries, {part.shape.base, part.width, part.shape.blocks}, part.width, part.lane_levels(), true);
        for (int p = 0; p < part.count; p++)
            y[part.output(p)] = static_cast<float>(entries[place(p)] * hadamard_unit(part.shape));
    }
    return 0;
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

void part_codes(const double *sums, int count, int size, float scale, int8_t *y) {
    for (int i = 0; i < count; i++) y[i] = OutputScale(size, scale).code(sums[i]);
}

int64_t hadamard_bytes(int size) { return entries_bytes(size); }

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
