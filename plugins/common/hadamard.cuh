// The orthonormal Hadamard transform of plugins/common/hadamard.py on one token in the shared memory of one
// block, in fp64.
//
// H = I_blocks (x) base (x) Sylvester(2^k), divided by the root of its order: entry i stands at block, base
// index j and q < 2^k, i = (block order + j) 2^k + q. Base orders 12, 20 and 28 are Paley's, 40 is 2 x 20.
#pragma once

#include <cstdint>
#include <utility>

#include "numeric.cuh"

namespace quamba {

struct HadamardShape {
    int base, power, blocks;  // base * power * blocks entries
};

QUAMBA_HOST_DEVICE constexpr bool power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

// The full order of `size` where there is one, otherwise blocks of the largest power of two that divides it.
QUAMBA_HOST_DEVICE constexpr HadamardShape hadamard_shape(int size) {
    if (power_of_two(size)) return {1, size, 1};
    if (size % 12 == 0 && power_of_two(size / 12)) return {12, size / 12, 1};
    if (size % 20 == 0 && power_of_two(size / 20)) return {20, size / 20, 1};
    if (size % 28 == 0 && power_of_two(size / 28)) return {28, size / 28, 1};
    return {1, size & -size, size / (size & -size)};
}

// 1 where `value` is a square modulo the prime q, -1 where it is none, 0 for 0.
QUAMBA_HOST_DEVICE constexpr int quadratic_character(int value, int q) {
    value = (value % q + q) % q;
    for (int n = 1; n < q; n++) {
        if (n * n % q == value) return value == 0 ? 0 : 1;
    }
    return value == 0 ? 0 : -1;
}

// Whether entry (i, j) of the base matrix is -1: I + S with S skew for orders 12 and 20, 2 x 2 blocks for 28.
QUAMBA_HOST_DEVICE constexpr bool negative_entry(int order, int i, int j) {
    if (order == 28) {
        const int row = i / 2, column = j / 2, a = i % 2, b = j % 2;
        if (row == column) return a == 1 || b == 1;
        const bool corner = a == 1 && b == 1;
        const bool negative = row > 0 && column > 0 && quadratic_character(row - column, 13) < 0;
        return negative != corner;
    }
    if (i == j) return false;
    if (i == 0) return false;
    return j == 0 || quadratic_character(i - j, order - 1) < 0;
}

// Signs of column j as bits, 1 for -1.
QUAMBA_HOST_DEVICE constexpr uint32_t negative_entries(int order, int j) {
    uint32_t bits = 0;
    for (int i = 0; i < order; i++) bits |= negative_entry(order, i, j) ? 1u << i : 0u;
    return bits;
}

// Where entry i stands in shared memory: one place is left free after every 16, so that neither 16
// consecutive entries a thread nor entries 16 apart meet a bank twice in a pass.
QUAMBA_HOST_DEVICE constexpr int place(int i) { return i + i / 16; }

// 1, 2, 3 or 4 levels of the transform on RADIX entries.
template <int RADIX>
QUAMBA_HOST_DEVICE void butterflies(double (&v)[RADIX]) {
#pragma unroll
    for (int half = 1; half < RADIX; half *= 2) {
#pragma unroll
        for (int i = 0; i < RADIX; i++) {
            if (i & half) continue;
            const double a = v[i], b = v[i + half];
            v[i] = a + b;
            v[i + half] = a - b;
        }
    }
}

// The i-th of the size / RADIX groups of entries 1 << shift apart, which no other group touches. shift is 0, or
// 4 and more, so that the places of a group lie evenly too.
template <int RADIX>
QUAMBA_HOST_DEVICE void sylvester_group(double *entries, int i, int shift) {
    const int first = ((i >> shift) * RADIX << shift) + (i & ((1 << shift) - 1)), apart = place(1 << shift);
    double *group = entries + place(first), v[RADIX];
#pragma unroll
    for (int k = 0; k < RADIX; k++) v[k] = group[k * apart];
    butterflies(v);
#pragma unroll
    for (int k = 0; k < RADIX; k++) group[k * apart] = v[k];
}

// sums[r] += entries (FIRST + r, COLUMN to COLUMN + 3) of the base matrix times v; column 0 begins them. Rows share
// the eight sums that four entries make but for the sign.
template <int ORDER, int FIRST, int COLUMN, int ROWS>
QUAMBA_HOST_DEVICE void add_columns(double (&sums)[ROWS], double v0, double v1, double v2, double v3) {
    constexpr uint32_t sign = negative_entries(ORDER, COLUMN) >> FIRST;
    constexpr uint32_t sign1 = sign ^ negative_entries(ORDER, COLUMN + 1) >> FIRST;
    constexpr uint32_t sign2 = sign ^ negative_entries(ORDER, COLUMN + 2) >> FIRST;
    constexpr uint32_t sign3 = sign ^ negative_entries(ORDER, COLUMN + 3) >> FIRST;
    const double a = v0 + v1, b = v0 - v1, c = v2 + v3, d = v2 - v3;
    const double choices[8] = {a + c, b + c, a - d, b - d, a + d, b + d, a - c, b - c};
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const double choice = choices[(sign1 >> r & 1) + 2 * (sign2 >> r & 1) + 4 * (sign3 >> r & 1)];
        const double term = sign >> r & 1 ? -choice : choice;
        sums[r] = COLUMN == 0 ? term : sums[r] + term;
    }
}

// ROWS rows of the base matrix, from FIRST on, times column[0], column[apart], ...
template <int ORDER, int FIRST, int ROWS, int... FOURS>
QUAMBA_HOST_DEVICE void base_rows(double (&sums)[ROWS], const double *column, int apart,
                                  std::integer_sequence<int, FOURS...>) {
    (add_columns<ORDER, FIRST, 4 * FOURS>(sums, column[4 * FOURS * apart], column[(4 * FOURS + 1) * apart],
                                          column[(4 * FOURS + 2) * apart], column[(4 * FOURS + 3) * apart]),
     ...);
}

// Row i of the base matrix, from the highest bit on, 1 for -1.
QUAMBA_HOST_DEVICE constexpr uint32_t row_signs(int order, int i) {
    uint32_t bits = 0;
    for (int j = 0; j < order; j++) bits |= negative_entry(order, i, j) ? 0x80000000u >> j : 0u;
    return bits;
}

// value, or -value where the highest bit of `sign` is set.
QUAMBA_HOST_DEVICE double with_sign(double value, uint32_t sign) {
#ifdef __CUDA_ARCH__
    return __hiloint2double(__double2hiint(value) ^ int(sign & 0x80000000u), __double2loint(value));
#else
    return sign >> 31 ? -value : value;
#endif
}

// A quarter of the rows in a loop, for any power, and for a block that comes by once: it would wait for every line of
// instructions, and those of base_rows() are many.
template <int ORDER, int... ROWS>
QUAMBA_HOST_DEVICE void looped_base_rows(double (&sums)[ORDER / 4], const double *entries, int power, int q,
                                         int quarter, std::integer_sequence<int, ROWS...>) {
    constexpr int N = ORDER / 4;
    uint32_t signs[N] = {(quarter < 2 ? quarter == 0 ? row_signs(ORDER, ROWS) : row_signs(ORDER, N + ROWS)
                          : quarter == 2 ? row_signs(ORDER, 2 * N + ROWS)
                                         : row_signs(ORDER, 3 * N + ROWS))...};
    for (int i = 0; i < N; i++) sums[i] = 0.0;
#pragma unroll 4
    for (int j = 0; j < ORDER; j++) {
        const double v = entries[place(j * power + q)];
#pragma unroll
        for (int i = 0; i < N; i++) {
            sums[i] += with_sign(v, signs[i]);
            signs[i] <<= 1;
        }
    }
}

// Sums of a column of base_rows() that one thread has the registers for.
constexpr int BASE_SUMS = 20;

// Threads that share a column of base_rows().
QUAMBA_HOST_DEVICE constexpr int base_shares(int order) { return order <= BASE_SUMS ? 1 : 2; }

// What makes the rows of the shape's +-1 matrix orthonormal.
QUAMBA_HOST_DEVICE double hadamard_unit(HadamardShape shape) {
    return 1.0 / sqrt(static_cast<double>(shape.base * shape.power));
}

#ifdef __CUDACC__

template <int RADIX>
__device__ void sylvester_pass(double *entries, int size, int shift) {
    for (int i = threadIdx.x; i < size / RADIX; i += blockDim.x) sylvester_group<RADIX>(entries, i, shift);
    __syncthreads();
}

// The Sylvester levels of 1 << shift and above, up to those of `power` entries; shift is 0, or 4 and more.
__device__ inline void sylvester_passes(double *entries, int size, int power, int shift) {
    for (; 16 << shift <= power; shift += 4) sylvester_pass<16>(entries, size, shift);
    const int rest = power >> shift;
    if (rest == 8) sylvester_pass<8>(entries, size, shift);
    if (rest == 4) sylvester_pass<4>(entries, size, shift);
    if (rest == 2) sylvester_pass<2>(entries, size, shift);
}

// Columns that a block takes at once with `shares` threads each; a warp has one share.
__device__ inline int base_columns(int power, int shares) { return min(int(blockDim.x) / shares, max(power, 32)); }

// A block is a multiple of 128 threads.
template <int ORDER>
__device__ void looped_base_pass(double *entries, int power) {
    constexpr int ROWS = ORDER / 4;
    constexpr auto EACH = std::make_integer_sequence<int, ROWS>();
    const int columns = base_columns(power, 4), quarter = threadIdx.x / columns;
    for (int first = 0; first < power; first += columns) {
        const int q = first + threadIdx.x % columns;
        const bool works = q < power && quarter < 4;
        double sums[ROWS];
        if (works) looped_base_rows<ORDER>(sums, entries, power, q, quarter, EACH);
        __syncthreads();
        if (works) {
#pragma unroll
            for (int i = 0; i < ROWS; i++) entries[place((quarter * ROWS + i) * power + q)] = sums[i];
        }
    }
    __syncthreads();
}

// A block is a multiple of 64 threads, `power` of 16.
template <int ORDER>
__device__ void base_pass(double *entries, int power) {
    constexpr auto FOURS = std::make_integer_sequence<int, ORDER / 4>();
    constexpr int SHARES = base_shares(ORDER), ROWS = ORDER / SHARES;
    const int columns = base_columns(power, SHARES), share = threadIdx.x / columns, apart = place(power);
    for (int first = 0; first < power; first += columns) {
        const int q = first + threadIdx.x % columns;
        const bool works = q < power && share < SHARES;
        double *column = entries + place(q), sums[ROWS];
        if (works && share == 0) base_rows<ORDER, 0>(sums, column, apart, FOURS);
        if (works && share == 1) base_rows<ORDER, ORDER - ROWS>(sums, column, apart, FOURS);
        if (SHARES > 1) __syncthreads();
        if (works) {
#pragma unroll
            for (int i = 0; i < ROWS; i++) column[(share * ROWS + i) * apart] = sums[i];
        }
    }
    __syncthreads();
}

// The rows of base (x) I_power.
__device__ inline void looped_base_passes(double *entries, int base, int power) {
    if (base == 12) looped_base_pass<12>(entries, power);
    if (base == 20) looped_base_pass<20>(entries, power);
    if (base == 28) looped_base_pass<28>(entries, power);
}

__device__ inline void base_passes(double *entries, int base, int power) {
    if (base == 12) base_pass<12>(entries, power);
    if (base == 20) base_pass<20>(entries, power);
    if (base == 28) base_pass<28>(entries, power);
}

// Transforms the shape's entries but for the factor that makes H orthonormal. The block is in step before and
// after.
__device__ inline void hadamard_transform(double *entries, HadamardShape shape) {
    sylvester_passes(entries, shape.base * shape.power * shape.blocks, shape.power, 0);
    looped_base_passes(entries, shape.base, shape.power);
}

// y = H entries as Output writes it, for one token of `size` entries; `hadamard` 0 leaves H out.
template <class Output, class Op>
__device__ void transform_and_write(const Op &op, double *entries, int size, int hadamard,
                                    typename Output::Stored *y) {
    const HadamardShape shape = hadamard_shape(size);
    const double unit = hadamard ? hadamard_unit(shape) : 1.0;
    if (hadamard) hadamard_transform(entries, shape);
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        y[i] = Output::written(op, static_cast<float>(entries[place(i)] * unit));
    }
}

#endif  // __CUDACC__

// Shared memory of `size` entries with their free places.
QUAMBA_HOST_DEVICE constexpr int64_t entries_bytes(int64_t size) {
    return (size + size / 16 + 1) * sizeof(double);
}

// Threads of a block that holds a token of `count` entries.
QUAMBA_HOST_DEVICE constexpr int token_threads(int64_t count) { return count >= 2048 ? 512 : 256; }

}  // namespace quamba
