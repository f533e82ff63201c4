// The tiles of int4_gemm.cuh for a few dozen tokens, where a block has little to multiply and waits for one group after
// the other: here a stage is WARPS groups, a warp each. Their integer sums meet in shared memory, where the thread that
// has an output adds them in the contract's order.
#pragma once

#include "int4_gemm.cuh"

namespace quamba {

template <int BT_, int BM_, int WARPS_, int STAGES_, int BLOCKS_>
struct FewTile {
    static constexpr int BT = BT_, BM = BM_, WARPS = WARPS_, STAGES = STAGES_, BLOCKS = BLOCKS_;
    static constexpr int THREADS = 32 * WARPS;
    static constexpr int TOKENS_BYTES = BT * GEMM_COLUMNS, GROUP_STAGE = TOKENS_BYTES + BM * GROUP_BYTES;
    static constexpr int STAGE_BYTES = WARPS * GROUP_STAGE;
    static constexpr int PITCH = BM + 8;  // of the integer sums (WARPS, BT, PITCH), behind the stages
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES + WARPS * BT * PITCH * 4;
    static constexpr int LANES = BM / 4, QUADS = BT * LANES / THREADS;  // four outputs each, of a thread
    static_assert(WARPS * BM == THREADS, "a thread brings one scale of a stage");
    static_assert(THREADS % LANES == 0 && QUADS * THREADS == BT * LANES, "all threads end as many outputs");
};

#ifdef __CUDACC__

// The integer sums of a warp's group, from row 0 of `tokens` and of `weight`.
template <class Tile>
__device__ __forceinline__ void store_group(int32_t *sums, const char *tokens, const char *weight, int lane) {
    const GroupCodes<Tile::BM> codes(weight, lane);
    const uint32_t first = address_of_tokens(tokens, lane);
#pragma unroll
    for (int i = 0; i < Tile::BT / 16; i++) {
        int32_t totals[Tile::BM / 8][4];
        codes.multiply(totals, first + 16 * i * GEMM_COLUMNS);
#pragma unroll
        for (int j = 0; j < Tile::BM / 8; j++) {
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                const int t = 16 * i + sum_row(lane, half), m = 8 * j + sum_column(lane, half);
                *reinterpret_cast<int2 *>(sums + t * Tile::PITCH + m) = {totals[j][half], totals[j][half + 1]};
            }
        }
    }
}

// Adds a stage's groups, the first first, to four outputs. sums: of the first group at the outputs; scale likewise.
template <class Tile>
__device__ __forceinline__ void add_stage(float (&four)[4], const int32_t *sums, const float *scale) {
#pragma unroll
    for (int group = 0; group < Tile::WARPS; group++) {
        const int4 total = *reinterpret_cast<const int4 *>(sums + group * Tile::BT * Tile::PITCH);
        const float4 of_rows = *reinterpret_cast<const float4 *>(scale + group * Tile::BM);
        four[0] += biased_group_part(total.x, of_rows.x);
        four[1] += biased_group_part(total.y, of_rows.y);
        four[2] += biased_group_part(total.z, of_rows.z);
        four[3] += biased_group_part(total.w, of_rows.w);
    }
}

// Grid: x = tiles of tokens, y = tiles of weight.
template <class End, class Tile>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    int4_gemm_few(Int4Product p, End end, bool x_aligned, bool weight_aligned) {
    extern __shared__ char shared[] __attribute__((aligned(128)));
    __shared__ __align__(16) float scales[2][Tile::THREADS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, groups = p.groups();
    const int first_t = blockIdx.x * Tile::BT, first_m = blockIdx.y * Tile::BM;
    const int steps = (groups + Tile::WARPS - 1) / Tile::WARPS;

    auto stage = [&](int step, int group) {
        return shared + step % Tile::STAGES * Tile::STAGE_BYTES + group * Tile::GROUP_STAGE;
    };
    auto load_x = [&](int step) {
        for (int g = 0; g < Tile::WARPS; g++) {
            load_stage<Tile::BT, GEMM_COLUMNS, Tile::THREADS>(stage(step, g), p.x, p.x_stride, p.T, p.K, first_t,
                                                              (step * Tile::WARPS + g) * GEMM_COLUMNS, x_aligned);
        }
    };
    auto load_weight = [&](int step) {
        for (int g = 0; g < Tile::WARPS; g++) {
            load_stage<Tile::BM, GROUP_BYTES, Tile::THREADS>(
                stage(step, g) + Tile::TOKENS_BYTES, p.weight, p.K / 2, p.M, p.K / 2, first_m,
                (step * Tile::WARPS + g) * GROUP_BYTES, weight_aligned);
        }
    };
    const auto scale_of = [&](int step) {
        const int m = first_m + threadIdx.x % Tile::BM, group = step * Tile::WARPS + threadIdx.x / Tile::BM;
        return m < p.M && group < groups ? sixteenth_of_scale(p, m, group) : 0.0f;
    };
    for (int i = 0; i < Tile::STAGES - 1 && i < steps; i++) load_weight(i);
    float scale = scale_of(0);
    let_next_kernel_begin();
    wait_for_inputs();
    for (int i = 0; i < Tile::STAGES - 1; i++) {
        if (i < steps) load_x(i);
        end_copy_group();
    }

    int32_t *sums = reinterpret_cast<int32_t *>(shared + Tile::STAGES * Tile::STAGE_BYTES);
    const int token = threadIdx.x / Tile::LANES, row = threadIdx.x % Tile::LANES * 4;
    float outputs[Tile::QUADS][4] = {};
    for (int step = 0; step < steps; step++) {
        wait_copy_groups<Tile::STAGES - 2>();
        __syncthreads();
        const int next = step + Tile::STAGES - 1;
        if (next < steps) load_weight(next), load_x(next);
        end_copy_group();
        scales[step % 2][threadIdx.x] = scale;
        scale = scale_of(step + 1);
        const char *own = stage(step, warp);
        store_group<Tile>(sums + warp * Tile::BT * Tile::PITCH, own, own + Tile::TOKENS_BYTES, lane);
        __syncthreads();
#pragma unroll
        for (int quad = 0; quad < Tile::QUADS; quad++) {
            const int t = token + quad * (Tile::THREADS / Tile::LANES);
            add_stage<Tile>(outputs[quad], sums + t * Tile::PITCH + row, scales[step % 2] + row);
        }
    }
    if (first_m + row >= p.M) return;
    const FourRows<End> rows(end, first_m + row, p.M);
#pragma unroll
    for (int quad = 0; quad < Tile::QUADS; quad++) {
        const int t = first_t + token + quad * (Tile::THREADS / Tile::LANES);
        if (t < p.T) rows.finish(t, outputs[quad]);
    }
}

#endif  // __CUDACC__

}  // namespace quamba
