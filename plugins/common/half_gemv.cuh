// fp16 tokens as gemv.cuh multiplies them: the digits of half_limbs.cuh are rows of int8, six of the eight columns of
// mma.sync, so a token costs the instructions that eight tokens of int8 do. Each block makes the digits for itself.
#pragma once

#include "half_linear.cuh"
#include "int4_gemv.cuh"
#include "int8_gemv.cuh"

#ifdef __CUDACC__
#include "warp.cuh"
#endif

namespace quamba {

#ifdef __CUDACC__

// Sums of the digits of a token by 16 rows of weight, as mma.sync leaves them in a warp, as one integer: lane 4 r has that
// of row r, lane 4 r + 1 that of row r + 8, others none. Pair: holds 257 times a sum.
template <class Pair>
__device__ __forceinline__ int64_t token_total(const int32_t (&sums)[4], int lane) {
    const Pair upper = sums[0] + Pair(256) * sums[1], lower = sums[2] + Pair(256) * sums[3];  // two digits a lane
    const int quad = lane % 4;
    const Pair other = __shfl_xor_sync(ALL_LANES, quad == 0 ? lower : upper, 1);
    const Pair last_upper = __shfl_sync(ALL_LANES, upper, lane - quad + 2);
    const Pair last_lower = __shfl_sync(ALL_LANES, lower, lane - quad + 2);
    const Pair first = quad == 0 ? upper : other, second = quad == 0 ? other : lower;
    const int64_t last = quad == 0 ? last_upper : last_lower;
    return first + (int64_t(second) << 16) + (last << 32);
}

// The row, of 16, of which this lane has a token_total(); 16 or more where it has none.
__device__ __forceinline__ int row_of_total(int lane) { return lane / 4 + (lane % 4 < 2 ? lane % 4 * 8 : 16); }

#endif  // __CUDACC__

// TOKENS: the most; one alone takes fewer registers. SMALL_DEPTH: six rows of digits a token leave less for steps ahead.
template <int TOKENS>
struct HalfInt4Format : Int4Format {
    using Product = HalfInt4Product;
    static constexpr int MOST_TOKENS = TOKENS, SMALL_DEPTH = 2, LIMBS = quamba::LIMBS, TILES = TOKENS, SUMS = 1;

#ifdef __CUDACC__

    static __device__ __forceinline__ bool has_column(int column, int) { return column < LIMBS; }

    // A group's sum, scaled behind the last barrier; a pair of digits is at most 2^21 + 2^29.
    static __device__ __forceinline__ void store(int32_t *to, const int32_t (&sums)[4], int lane, int) {
        const int row = row_of_total(lane);
        const float sum = half_group_sum(token_total<int32_t>(sums, lane));
        if (row < GEMV_ROWS) to[row] = __float_as_int(sum);
    }

    static __device__ __forceinline__ float total(const int32_t *own, int parts, int part, const uint16_t *scale) {
        float sum = 0.0f;
#pragma unroll 4
        for (int group = 0; group < parts; group++)
            sum += __int_as_float(own[group * part]) * __half2float(__ushort_as_half(scale[group]));
        return sum;
    }

#endif  // __CUDACC__
};

template <int TOKENS>
struct HalfInt8Format : Int8Format {
    using Product = HalfInt8Product;
    static constexpr int MOST_TOKENS = TOKENS, SMALL_DEPTH = 2, LIMBS = quamba::LIMBS, TILES = TOKENS, SUMS = 2;

    // So that the sums of a block take at most 64 KiB.
    static QUAMBA_HOST_DEVICE constexpr int most_rows(int, int T) { return 65536 / (GEMV_WARPS * 8 * T) / 8 * 8; }

#ifdef __CUDACC__

    static __device__ __forceinline__ bool has_column(int column, int) { return column < LIMBS; }

    // A warp's part of the sum, its lower and its upper word.
    static __device__ __forceinline__ void store(int32_t *to, const int32_t (&sums)[4], int lane, int) {
        const int row = row_of_total(lane);
        const int64_t total = token_total<int64_t>(sums, lane);
        if (row < GEMV_ROWS) to[row] = int32_t(total), to[GEMV_ROWS + row] = int32_t(total >> 32);
    }

    static __device__ __forceinline__ float total(const int32_t *own, int parts, int part, const uint16_t *) {
        int64_t total = 0;
#pragma unroll 4
        for (int k = 0; k < parts; k++)
            total += int64_t(uint64_t(uint32_t(own[k * part + GEMV_ROWS])) << 32 | uint32_t(own[k * part]));
        return half_sum(total);
    }

#endif  // __CUDACC__
};

#ifdef __CUDACC__

// Where the digits of the tokens come from: fp16 numbers in memory.
struct Halves {
    bool aligned;  // rows of x begin on 8 bytes and K % 4 == 0

    // Brings the digits of the tokens into shared memory, a row a digit, zeros behind column K.
    template <class Format>
    __device__ __forceinline__ void stage(uint4 *tokens, const typename Format::Product &p) const {
        constexpr int BATCH = 2;  // of four columns, whose loads are waited for together
        const int quads = Format::whole_columns(p.K) / 4, pitch = Format::pitch(p.K) / 4;
        for (int t = 0; t < p.T; t++) {
            const uint16_t *x = p.x + t * p.x_stride;
            uint32_t *rows = reinterpret_cast<uint32_t *>(tokens) + t * LIMBS * pitch;
            const auto load = [&](int i) { return four_halves(x + 4 * i, p.K - 4 * i); };
            in_batches<BATCH>(quads, load, [&](int i, uint2 four) {
                uint32_t words[LIMBS];
                limb_words(words, {four.x, four.y});
#pragma unroll
                for (int limb = 0; limb < LIMBS; limb++) rows[limb * pitch + i] = words[limb];
            });
        }
    }

    // Those from `count` on are zero and not read.
    __device__ __forceinline__ uint2 four_halves(const uint16_t *from, int count) const {
        if (aligned) return count > 0 ? *reinterpret_cast<const uint2 *>(from) : uint2{0, 0};
        const auto bits = [&](int i) { return i < count ? uint32_t(from[i]) : 0u; };
        return {bits(0) | bits(1) << 16, bits(2) | bits(3) << 16};
    }
};

#endif  // __CUDACC__

}  // namespace quamba
