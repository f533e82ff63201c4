// Weights of int4 codes as gemv.cuh multiplies them: a group of 128 columns a step, its integer sum kept on its own, so
// that the thread that ends a row can add the groups in fp32 from the first to the last.
//
// The 16 bytes of a lane are 32 columns, j and j + 16 in one byte. Shifted to the upper half of a byte a code is a signed
// one as it is, times sixteen; a word of them and one of the codes in the upper halves are two operands of mma.sync.
#pragma once

#include "gemv.cuh"
#include "int4_linear.cuh"

#ifdef __CUDACC__
#include <cuda_fp16.h>

#include "batches.cuh"
#endif

namespace quamba {

struct Int4Format {
    using Product = Int4Product;
    static constexpr int MOST_TOKENS = GEMV_TOKENS, SMALL_DEPTH = GEMV_SMALL_DEPTH, LIMBS = 1, TILES = 1, SUMS = 1;
    static constexpr int COLUMNS = INT4_CHUNK * INT4_GROUP_CHUNKS;  // of a step: a group
    static constexpr bool SUM_A_STEP = true;

    static QUAMBA_HOST_DEVICE constexpr int row_bytes(int K) { return K / 2; }
    static QUAMBA_HOST_DEVICE constexpr int scales(int K) { return gemv_steps(row_bytes(K)); }
    static QUAMBA_HOST_DEVICE constexpr int whole_columns(int K) { return scales(K) * COLUMNS; }

    // So that scales and sums of a block take at most 64 KiB; eight rows at the least.
    static QUAMBA_HOST_DEVICE constexpr int most_rows(int K, int T) {
        const int rows = 65536 / (scales(K) * (4 * T + 2)) / 8 * 8;
        return rows < 8 ? 8 : rows;
    }

    static QUAMBA_HOST_DEVICE constexpr int parts(const GemvShape &, int K) { return scales(K); }
    static QUAMBA_HOST_DEVICE constexpr int first_part(const WarpShare &share, int) { return share.begin; }

    // Bytes from one token to the next in shared memory, so that the eight lanes of one phase of a 16-byte load (two
    // tokens by every second piece of eight) meet no bank twice.
    static QUAMBA_HOST_DEVICE constexpr int pitch(int K) { return whole_columns(K) + 16; }

    // The first of the two pieces of 16 columns that a lane multiplies in step `begin`.
    static QUAMBA_HOST_DEVICE constexpr int first_piece(int lane, int begin, int K) {
        return lane / 4 * (pitch(K) / 16) + begin * (COLUMNS / 16) + lane % 4 * 2;
    }

#ifdef __CUDACC__

    template <class P>
    static __device__ __forceinline__ void load_scales(uint16_t *to, const P &p, int first_row, int last_row) {
        const int each = scales(p.K), count = (last_row - first_row) * each;
        const uint16_t *from = p.weight_scale + int64_t(first_row) * each;
        in_batches<4>(count, [&](int i) { return from[i]; }, [&](int i, uint16_t scale) { to[i] = scale; });
    }

    static __device__ __forceinline__ bool has_column(int column, int T) { return column < T; }

    static __device__ __forceinline__ void store(int32_t *to, const int32_t (&sums)[4], int lane, int T) {
        store_columns(to, sums, lane, T);
    }

    static __device__ __forceinline__ void multiply_step(int32_t (&sums)[4], const WeightStep &weight,
                                                         const uint4 *piece, bool token) {
        const uint4 low = token ? piece[0] : uint4{0, 0, 0, 0}, high = token ? piece[1] : uint4{0, 0, 0, 0};
        multiply_word(sums, weight.upper.x, weight.lower.x, low.x, high.x);
        multiply_word(sums, weight.upper.y, weight.lower.y, low.y, high.y);
        multiply_word(sums, weight.upper.z, weight.lower.z, low.z, high.z);
        multiply_word(sums, weight.upper.w, weight.lower.w, low.w, high.w);
    }

    static __device__ __forceinline__ void multiply_word(int32_t (&sums)[4], uint32_t upper, uint32_t lower,
                                                         uint32_t low, uint32_t high) {
        constexpr uint32_t CODES = 0xf0f0f0f0u;
        mma(sums, upper << 4 & CODES, lower << 4 & CODES, upper & CODES, lower & CODES, low, high);
    }

    static __device__ __forceinline__ float total(const int32_t *own, int parts, int part, const uint16_t *scale) {
        float sum = 0.0f;
#pragma unroll 4
        for (int group = 0; group < parts; group++) {
            sum += group_part(own[group * part], __half2float(__ushort_as_half(scale[group])));
        }
        return sum;
    }

#endif  // __CUDACC__
};

}  // namespace quamba
