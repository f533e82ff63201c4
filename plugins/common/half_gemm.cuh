// y (T, M) = end(sums of x (T, K) fp16 by weight (M, K) of int4 or int8 codes) for many tokens: tiles on the tensor cores.
//
// A stage of gemm_tile.cuh is 128 columns, of x as it lies in memory. Behind a stage the block makes its digits
// (half_limbs.cuh), a plane of int8 each, and a warp multiplies its rows of weight with plane after plane; pairs of digits
// add up in 32 bits, a stage in 64. The last pair is that of numbers from 127.5 on: where a stage has none it is left out.
#pragma once

#include "gemm_tile.cuh"
#include "half_linear.cuh"
#include "int4_gemm.cuh"

namespace quamba {

// A tile of half_gemm: a stage holds tokens of fp16; the planes and two groups' scales lie behind the ring.
template <class Weight, int BT, int BM, int WARPS_T, int WARPS_M, int STAGES, int BLOCKS>
struct HalfTile : GemmTile<BT, BM, WARPS_T, WARPS_M, STAGES, BLOCKS, Weight::ROW_BYTES> {
    using Base = GemmTile<BT, BM, WARPS_T, WARPS_M, STAGES, BLOCKS, Weight::ROW_BYTES>;
    static constexpr int HALF_TOKENS = BT * GEMM_COLUMNS;  // bytes of the tokens of 64 columns
    static constexpr int TOKENS_BYTES = 2 * HALF_TOKENS, STAGE_BYTES = TOKENS_BYTES + BM * Weight::ROW_BYTES;
    static constexpr int PLANE_BYTES = BT * GEMM_COLUMNS, PLANES = STAGES * STAGE_BYTES;
    static constexpr int SCALES = PLANES + LIMBS * PLANE_BYTES, SHARED_BYTES = SCALES + 2 * BM * 4;
    static_assert(SHARED_BYTES <= 99 * 1024, "what a block has on sm_86 and sm_89");
    static_assert(BT * Base::SUMS_PITCH * 4 <= SCALES, "the sums take the place of ring and planes");
    static_assert(BT % (Base::THREADS / 32) == 0, "all warps make digits of as many tokens");
};

//                                  tokens, rows, warps by tokens and by rows, stages, blocks on one SM
template <class Weight>
using HalfFew = HalfTile<Weight, 16, 32, 1, 4, 4, 3>;
template <class Weight>
using HalfMany = HalfTile<Weight, 32, 128, 2, 4, 3, 2>;

#ifdef __CUDACC__

// Codes of int4: operands of mma.sync times sixteen, and a scale a group behind each group's sum. Scales come divided by
// sixteen and times the unit of the digits: powers of two, so the product's rounding is that of the scale itself.
struct HalfInt4Weight {
    using Product = HalfInt4Product;
    static constexpr int ROW_BYTES = GROUP_BYTES;
    static QUAMBA_HOST_DEVICE constexpr int row_bytes(int K) { return K / 2; }  // in memory

    template <int WM>
    using Rows = GroupCodes<WM>;

    // What a warp keeps from group to group.
    template <class Tile>
    struct Sums {
        float of[Tile::WM / 8][4] = {};

        __device__ __forceinline__ void add(int64_t total, int j, int k, float2 scale) {
            of[j][k] += nearest_float(total) * (k % 2 ? scale.y : scale.x);
        }
        __device__ __forceinline__ float end(int j, int k) const { return of[j][k]; }
    };

    template <class Tile>
    using Scales = GroupScales<Tile, uint16_t>;
};

// Codes of int8, whose sums are whole behind the last column.
struct HalfInt8Weight {
    using Product = HalfInt8Product;
    static constexpr int ROW_BYTES = GEMM_COLUMNS;
    static QUAMBA_HOST_DEVICE constexpr int row_bytes(int K) { return K; }

    template <int WM>
    struct Rows {
        uint32_t words[WM / 8][8];

        __device__ __forceinline__ Rows(const char *weight, int lane) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint32_t first = shared_address(weight + chunk_offset(lane % 8, 4 * half + lane / 8));
#pragma unroll
                for (int j = 0; j < WM / 8; j++) {
                    uint32_t four[4];
                    load_matrices(four, first + 8 * j * ROW_BYTES);
#pragma unroll
                    for (int c = 0; c < 4; c++) words[j][4 * half + c] = four[c];
                }
            }
        }
    };

    template <class Tile>
    struct Sums {
        int64_t of[Tile::WM / 8][4] = {};

        __device__ __forceinline__ void add(int64_t total, int j, int k, float2) { of[j][k] += total; }
        __device__ __forceinline__ float end(int j, int k) const { return half_sum(of[j][k]); }
    };

    template <class Tile>
    struct Scales {
        __device__ Scales(float *, const Product &, int) {}
        __device__ void advance() {}
    };
};

// The digits of a stage's tokens as planes, a warp a token. Whether any has the last pair of them.
template <class Tile>
__device__ __forceinline__ bool make_planes(char *planes, const char *tokens) {
    const int lane = threadIdx.x % 32, column = 4 * lane;
    const char *from = tokens + column / 64 * Tile::HALF_TOKENS;
    uint32_t last = 0;
#pragma unroll
    for (int row = threadIdx.x / 32; row < Tile::BT; row += Tile::THREADS / 32) {
        const int half_chunk = column % 64 / 8, at = column % 8 * 2;
        const uint2 four = *reinterpret_cast<const uint2 *>(from + chunk_offset(row, half_chunk) + at);
        uint32_t words[LIMBS];
        limb_words(words, {four.x, four.y});
        char *to = planes + chunk_offset(row, column / 16) + column % 16;
#pragma unroll
        for (int limb = 0; limb < LIMBS; limb++) *reinterpret_cast<uint32_t *>(to + limb * Tile::PLANE_BYTES) = words[limb];
        last |= words[4] | words[5];
    }
    return last != 0;
}

// One stage: 16 tokens from row 0 of `planes` by the warp's rows of weight. last_pair: as make_planes() says.
template <class Tile, class Rows, class Sums>
__device__ __forceinline__ void add_stage_of_halves(Sums &sums, const char *planes, const Rows &rows, bool last_pair,
                                                    const float *scales, int lane) {
    int64_t totals[Tile::WM / 8][4] = {};
    const uint32_t first = address_of_tokens(planes, lane);
#pragma unroll
    for (int pair = LIMBS / 2 - 1; pair >= 0; pair--) {
        if (pair == LIMBS / 2 - 1 && !last_pair) continue;
        int32_t part[Tile::WM / 8][4] = {};
#pragma unroll
        for (int limb = 2 * pair + 1; limb >= 2 * pair; limb--) {
#pragma unroll
            for (int j = 0; j < Tile::WM / 8; j++) {
#pragma unroll
                for (int k = 0; k < 4; k++) part[j][k] *= 256;
            }
#pragma unroll
            for (int c = 0; c < GROUP_CHUNKS; c++) {
                uint32_t a[4];
                load_matrices(a, (first + limb * Tile::PLANE_BYTES) ^ 32 * c);
#pragma unroll
                for (int j = 0; j < Tile::WM / 8; j++)
                    mma(part[j], a[0], a[1], a[2], a[3], rows.words[j][2 * c], rows.words[j][2 * c + 1]);
            }
        }
#pragma unroll
        for (int j = 0; j < Tile::WM / 8; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++) totals[j][k] += int64_t(part[j][k]) << 16 * pair;
        }
    }
#pragma unroll
    for (int j = 0; j < Tile::WM / 8; j++) {
        const float2 two = reinterpret_cast<const float2 *>(scales)[lane % 4 * (Tile::WM / 8) + j];
        const float2 scale = {two.x * LIMB_UNIT, two.y * LIMB_UNIT};
#pragma unroll
        for (int k = 0; k < 4; k++) sums.add(totals[j][k], j, k, scale);
    }
}

// Grid: x = tiles of tokens, y = tiles of weight. A warp has 16 tokens.
template <class Weight, class End, class Tile>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    half_gemm(typename Weight::Product p, End end, bool x_aligned, bool weight_aligned) {
    static_assert(Tile::WT == 16, "16 tokens a warp");
    extern __shared__ char shared[] __attribute__((aligned(128)));
    char *const planes = shared + Tile::PLANES;
    float *const scale_pairs = reinterpret_cast<float *>(shared + Tile::SCALES);
    const int lane = threadIdx.x % 32, warp_t = Tile::warp_token(threadIdx.x), warp_m = Tile::warp_row(threadIdx.x);
    const int first_t = blockIdx.x * Tile::BT, first_m = blockIdx.y * Tile::BM, groups = p.groups();
    const int row_bytes = Weight::row_bytes(p.K);

    auto stage = [&](int group) { return shared + group % Tile::STAGES * Tile::STAGE_BYTES; };
    auto load_x = [&](int group) {
#pragma unroll
        for (int half = 0; half < 2; half++)
            load_stage<Tile::BT, GEMM_COLUMNS, Tile::THREADS>(
                stage(group) + half * Tile::HALF_TOKENS, reinterpret_cast<const int8_t *>(p.x), 2 * p.x_stride, p.T,
                2 * p.K, first_t, (2 * group + half) * GEMM_COLUMNS, x_aligned);
    };
    auto load_weight = [&](int group) {
        load_stage<Tile::BM, Weight::ROW_BYTES, Tile::THREADS>(stage(group) + Tile::TOKENS_BYTES, p.weight, row_bytes,
                                                               p.M, row_bytes, first_m, group * Weight::ROW_BYTES,
                                                               weight_aligned);
    };
    for (int i = 0; i < Tile::STAGES - 1 && i < groups; i++) load_weight(i);
    typename Weight::template Scales<Tile> scales(scale_pairs, p, first_m);
    scales.advance();
    let_next_kernel_begin();
    wait_for_inputs();
    for (int i = 0; i < Tile::STAGES - 1; i++) {
        if (i < groups) load_x(i);
        end_copy_group();
    }

    typename Weight::template Sums<Tile> sums;
    for (int group = 0; group < groups; group++) {
        wait_copy_groups<Tile::STAGES - 2>();
        __syncthreads();
        const int next = group + Tile::STAGES - 1;
        if (next < groups) load_weight(next), load_x(next);
        end_copy_group();
        scales.advance();
        const bool last_pair = __syncthreads_or(make_planes<Tile>(planes, stage(group)));
        const typename Weight::template Rows<Tile::WM> rows(
            stage(group) + Tile::TOKENS_BYTES + warp_m * Weight::ROW_BYTES, lane);
        add_stage_of_halves<Tile>(sums, planes + warp_t * GEMM_COLUMNS, rows, last_pair,
                                  scale_pairs + group % 2 * Tile::BM + warp_m, lane);
    }
    __syncthreads();  // ring and planes become the tile of sums
    float *tile = reinterpret_cast<float *>(shared);
    float ended[1][Tile::WM / 8][4];
#pragma unroll
    for (int j = 0; j < Tile::WM / 8; j++) {
#pragma unroll
        for (int k = 0; k < 4; k++) ended[0][j][k] = sums.end(j, k);
    }
    store_sums<Tile>(tile, ended, warp_t, warp_m, lane);
    __syncthreads();
    end_tile<Tile>(tile, p.T, p.M, end, first_t, first_m, 0, 1,
                   [](const float *four) { return *reinterpret_cast<const float4 *>(four); });
}

#endif  // __CUDACC__

}  // namespace quamba
