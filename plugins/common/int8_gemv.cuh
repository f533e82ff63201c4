// Weights of int8 codes as gemv.cuh multiplies them: 64 columns a step, one integer sum a warp and chunk of rows.
//
// Lane l reads columns 16 (l % 4) .. + 15 of 64 where the instruction wants columns 4 (l % 4) and 16 + 4 (l % 4): the
// sum does not mind the order so long as x is read from the same places, nor in which order the warps' sums are added.
#pragma once

#include "gemv.cuh"

namespace quamba {

struct Int8Format {
    using Product = Int8Product;
    static constexpr int MOST_TOKENS = GEMV_TOKENS, SMALL_DEPTH = GEMV_SMALL_DEPTH, LIMBS = 1, TILES = 1, SUMS = 1;
    static constexpr int COLUMNS = GEMV_STEP;  // of a step
    static constexpr bool SUM_A_STEP = false;

    static QUAMBA_HOST_DEVICE constexpr int row_bytes(int K) { return K; }
    static QUAMBA_HOST_DEVICE constexpr int whole_columns(int K) { return gemv_steps(K) * COLUMNS; }
    static QUAMBA_HOST_DEVICE constexpr int scales(int) { return 0; }
    static QUAMBA_HOST_DEVICE constexpr int most_rows(int, int) { return GEMV_THREADS; }
    static QUAMBA_HOST_DEVICE constexpr int parts(const GemvShape &shape, int) { return shape.k_warps; }
    static QUAMBA_HOST_DEVICE int first_part(const WarpShare &, int k_warp) { return k_warp; }

    // Bytes from one token to the next in shared memory: whole steps, an odd number, so that the eight lanes of
    // one phase of a 16-byte load (two tokens by four pieces) meet no bank twice.
    static QUAMBA_HOST_DEVICE constexpr int pitch(int K) { return (gemv_steps(K) | 1) * COLUMNS; }

    // Piece of 16 columns that a lane multiplies in step `begin`.
    static QUAMBA_HOST_DEVICE constexpr int first_piece(int lane, int begin, int K) {
        return lane / 4 * (pitch(K) / 16) + begin * (COLUMNS / 16) + lane % 4;
    }

#ifdef __CUDACC__

    template <class P>
    static __device__ __forceinline__ void load_scales(uint16_t *, const P &, int, int) {}

    static __device__ __forceinline__ bool has_column(int column, int T) { return column < T; }

    static __device__ __forceinline__ void store(int32_t *to, const int32_t (&sums)[4], int lane, int T) {
        store_columns(to, sums, lane, T);
    }

    static __device__ __forceinline__ void multiply_step(int32_t (&sums)[4], const WeightStep &weight,
                                                         const uint4 *piece, bool token) {
        const uint4 x = token ? *piece : uint4{0, 0, 0, 0};
        mma(sums, weight.upper.x, weight.lower.x, weight.upper.y, weight.lower.y, x.x, x.y);
        mma(sums, weight.upper.z, weight.lower.z, weight.upper.w, weight.lower.w, x.z, x.w);
    }

    static __device__ __forceinline__ int32_t total(const int32_t *own, int parts, int part, const uint16_t *) {
        int32_t total = 0;
#pragma unroll 4
        for (int k = 0; k < parts; k++) total += own[k * part];
        return total;
    }

#endif  // __CUDACC__
};

}  // namespace quamba
