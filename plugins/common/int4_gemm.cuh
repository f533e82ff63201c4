// y (T, M) = end(sums of x (T, K) by int4 weight (M, K)) for many tokens: tiles on the tensor cores.
//
// A stage of gemm_tile.cuh is a group of 128 columns. Its integer sums end with it: they are scaled and added in fp32
// group by group, as the contract has it, so no other block can have a part of K. Codes become operands of mma.sync
// in registers, times sixteen as in int4_gemv.cuh; a warp holds those of its rows while its tokens pass.
//
// mma.sync begins a group's sum at BIASED_ZERO, the bits of a float whose ulp is 1: scaling it is then one FMA.
#pragma once

#include "gemm_tile.cuh"
#include "int4_linear.cuh"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

namespace quamba {

constexpr int GROUP_BYTES = GEMM_COLUMNS / 2;   // of a row of weight
constexpr int GROUP_CHUNKS = GROUP_BYTES / 16;  // of which each meets 32 columns, two chunks of a token

// Row and chunk whose address a lane gives to load 8 rows of weight by a group, four words of codes.
QUAMBA_HOST_DEVICE constexpr int codes_row(int lane) { return lane % 8; }
QUAMBA_HOST_DEVICE constexpr int codes_chunk(int lane) { return lane / 8; }

// Where the scale of row m of a warp's WM rows stands: those of one lane follow each other.
template <int WM>
QUAMBA_HOST_DEVICE constexpr int scale_place(int m) {
    return m % 8 / 2 * (WM / 4) + m / 8 * 2 + m % 2;
}

#ifdef __CUDACC__

// A group's codes of WM rows as operands of mma.sync, read from row 0 of `weight` in a stage.
template <int WM>
struct GroupCodes {
    uint32_t words[WM / 8][2 * GROUP_CHUNKS];

    __device__ __forceinline__ GroupCodes(const char *weight, int lane) {
        constexpr uint32_t CODES = 0xf0f0f0f0u;
        const uint32_t first = shared_address(weight + chunk_offset<GROUP_BYTES>(codes_row(lane), codes_chunk(lane)));
#pragma unroll
        for (int j = 0; j < WM / 8; j++) {
            uint32_t both[GROUP_CHUNKS];
            load_matrices(both, first + 8 * j * GROUP_BYTES);
#pragma unroll
            for (int c = 0; c < GROUP_CHUNKS; c++) {
                words[j][2 * c] = both[c] << 4 & CODES, words[j][2 * c + 1] = both[c] & CODES;
            }
        }
    }

    // totals: biased sums of 16 tokens, from address_of_tokens() of the first of them on.
    __device__ __forceinline__ void multiply(int32_t (&totals)[WM / 8][4], uint32_t tokens) const {
#pragma unroll
        for (int j = 0; j < WM / 8; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++) totals[j][k] = BIASED_ZERO;
        }
#pragma unroll
        for (int c = 0; c < GROUP_CHUNKS; c++) {
            uint32_t a[4];
            load_matrices(a, tokens ^ 32 * c);  // two chunks on: the swizzle is an exclusive or as well
#pragma unroll
            for (int j = 0; j < WM / 8; j++)
                mma(totals[j], a[0], a[1], a[2], a[3], words[j][2 * c], words[j][2 * c + 1]);
        }
    }
};

// Of the chunk that a lane addresses of 16 tokens, of which the first stands at row 0 of `tokens`.
__device__ __forceinline__ uint32_t address_of_tokens(const char *tokens, int lane) {
    return shared_address(tokens + chunk_offset(token_row(lane), token_chunk(lane)));
}

// One group: the warp's tokens from row 0 of `tokens` by its rows of weight from row 0 of `weight`. scales: of those
// rows, divided by sixteen.
template <class Tile>
__device__ __forceinline__ void add_group(float (&sums)[Tile::WT / 16][Tile::WM / 8][4], const char *tokens,
                                          const char *weight, const float *scales, int lane) {
    const GroupCodes<Tile::WM> codes(weight, lane);
    const uint32_t first = address_of_tokens(tokens, lane);
    float2 scale[Tile::WM / 8];
#pragma unroll
    for (int j = 0; j < Tile::WM / 8; j++)
        scale[j] = reinterpret_cast<const float2 *>(scales)[lane % 4 * (Tile::WM / 8) + j];
#pragma unroll
    for (int i = 0; i < Tile::WT / 16; i++) {
        int32_t totals[Tile::WM / 8][4];
        codes.multiply(totals, first + 16 * i * GEMM_COLUMNS);
#pragma unroll
        for (int j = 0; j < Tile::WM / 8; j++) {
#pragma unroll
            for (int k = 0; k < 4; k++)
                sums[i][j][k] += biased_group_part(totals[j][k], k % 2 ? scale[j].y : scale[j].x);
        }
    }
}

// Of row m and a group, for biased_group_part().
template <class X>
__device__ __forceinline__ float sixteenth_of_scale(const ProductByInt4<X> &p, int m, int group) {
    return __half2float(__ushort_as_half(p.weight_scale[int64_t(m) * p.groups() + group])) * 0.0625f;
}

// The scales of a block's rows: a thread brings those of one row, each two groups before it is needed.
template <class Tile, class X>
struct GroupScales {
    static_assert(Tile::THREADS >= Tile::BM, "a thread a row");
    const ProductByInt4<X> &p;
    float *shared;  // (2, BM)
    int m, next;
    float held;  // of group `next`

    __device__ GroupScales(float *shared, const ProductByInt4<X> &p, int first_m)
        : p(p), shared(shared), m(first_m + int(threadIdx.x)), next(0), held(load()) {}

    __device__ float load() const {
        return threadIdx.x < Tile::BM && m < p.M && next < p.groups() ? sixteenth_of_scale(p, m, next) : 0.0f;
    }

    // Puts the next group's scales where the threads find them behind a barrier, and sends for those behind them.
    __device__ void advance() {
        constexpr int WM = Tile::WM;
        const int row = threadIdx.x;
        if (row < Tile::BM) shared[next % 2 * Tile::BM + row / WM * WM + scale_place<WM>(row % WM)] = held;
        next++;
        held = load();
    }
};

// Grid: x = tiles of tokens, y = tiles of weight.
template <class End, class Tile>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    int4_gemm(Int4Product p, End end, bool x_aligned, bool weight_aligned) {
    extern __shared__ char shared[] __attribute__((aligned(128)));
    __shared__ __align__(16) float scale_pairs[2 * Tile::BM];
    const int lane = threadIdx.x % 32, warp_t = Tile::warp_token(threadIdx.x), warp_m = Tile::warp_row(threadIdx.x);
    const int first_t = blockIdx.x * Tile::BT, first_m = blockIdx.y * Tile::BM, groups = p.groups();

    auto stage = [&](int group) { return shared + group % Tile::STAGES * Tile::STAGE_BYTES; };
    auto load_x = [&](int group) {
        load_stage<Tile::BT, GEMM_COLUMNS, Tile::THREADS>(stage(group), p.x, p.x_stride, p.T, p.K, first_t,
                                                          group * GEMM_COLUMNS, x_aligned);
    };
    auto load_weight = [&](int group) {
        load_stage<Tile::BM, GROUP_BYTES, Tile::THREADS>(stage(group) + Tile::TOKENS_BYTES, p.weight, p.K / 2, p.M,
                                                         p.K / 2, first_m, group * GROUP_BYTES, weight_aligned);
    };
    for (int i = 0; i < Tile::STAGES - 1 && i < groups; i++) load_weight(i);
    GroupScales<Tile, int8_t> scales(scale_pairs, p, first_m);
    scales.advance();
    let_next_kernel_begin();
    wait_for_inputs();
    for (int i = 0; i < Tile::STAGES - 1; i++) {
        if (i < groups) load_x(i);
        end_copy_group();
    }

    float sums[Tile::WT / 16][Tile::WM / 8][4] = {};
    for (int group = 0; group < groups; group++) {
        wait_copy_groups<Tile::STAGES - 2>();
        __syncthreads();
        const int next = group + Tile::STAGES - 1;
        if (next < groups) load_weight(next), load_x(next);
        end_copy_group();
        scales.advance();
        add_group<Tile>(sums, stage(group) + warp_t * GEMM_COLUMNS,
                        stage(group) + Tile::TOKENS_BYTES + warp_m * GROUP_BYTES,
                        scale_pairs + group % 2 * Tile::BM + warp_m, lane);
    }
    __syncthreads();  // the ring becomes the tile of sums
    float *tile = reinterpret_cast<float *>(shared);
    store_sums<Tile>(tile, sums, warp_t, warp_m, lane);
    __syncthreads();
    end_tile<Tile>(tile, p.T, p.M, end, first_t, first_m, 0, 1,
                   [](const float *four) { return *reinterpret_cast<const float4 *>(four); });
}

#endif  // __CUDACC__

}  // namespace quamba
