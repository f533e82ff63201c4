// The Hadamard transform for test_host_hadamard.py: what a block does in its three forms, replayed as loops over its
// threads.
#include "../../plugins/common/code_output.cuh"
#include "../../plugins/common/hadamard_part.cuh"

using namespace quamba;

namespace {

template <int ORDER>
void replay_base_pass(double *entries, int power, bool looped) {
    constexpr auto FOURS = std::make_integer_sequence<int, ORDER / 4>();
    constexpr int QUARTER = ORDER / 4, ROWS = ORDER / base_shares(ORDER);
    constexpr auto EACH = std::make_integer_sequence<int, QUARTER>();
    for (int q = 0; q < power; q++) {
        double shares[2][ROWS], quarters[4][QUARTER];
        const double *column = entries + place(q);
        base_rows<ORDER, 0>(shares[0], column, place(power), FOURS);
        base_rows<ORDER, ORDER - ROWS>(shares[1], column, place(power), FOURS);
        for (int quarter = 0; quarter < 4; quarter++) {
            looped_base_rows<ORDER>(quarters[quarter], entries, power, q, quarter, EACH);
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
    replay_transform(entries, whole.shape, whole.apart, 4, false);
    replay_sylvester_pass<LAST_RADIX>(entries, size, 0);
    for (int i = 0; i < size; i++) y[i] = static_cast<float>(entries[place(i)] * hadamard_unit(whole.shape));
    return 0;
}

}  // namespace

extern "C" {

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
        const HadamardShape eighth = {part.shape.base, part.width, part.shape.blocks};
        replay_transform(entries, eighth, part.width, part.lane_levels(), true);
        for (int p = 0; p < part.count; p++)
            y[part.output(p)] = static_cast<float>(entries[place(p)] * hadamard_unit(part.shape));
    }
    return 0;
}

void part_codes(const double *sums, int count, int size, float scale, int8_t *y) {
    for (int i = 0; i < count; i++) y[i] = CodeOutput(size, scale).output(sums[i]);
}

int64_t hadamard_bytes(int size) { return entries_bytes(size); }
}
