// y (T, M) = end(x (T, K) @ weight (M, K)^T) for many tokens: tiles on the tensor cores.
//
// A block computes a tile as gemm_tile.cuh has it or, where the tiles are too few for the GPU, 1/splits of
// its K: the blocks of one tile then form a cluster (sm_90) and add up through each other's shared memory.
// Tokens are the rows of mma.sync.
#pragma once

#include "cluster.cuh"
#include "gemm_tile.cuh"

namespace quamba {

constexpr int GEMM_CHUNKS = GEMM_COLUMNS / 16;

// Row and chunk whose address a lane gives to load 16 rows of weight by 32 columns, the two words of one B operand and
// the two of the next.
QUAMBA_HOST_DEVICE constexpr int weight_row(int lane) { return lane % 8 + lane / 16 * 8; }
QUAMBA_HOST_DEVICE constexpr int weight_chunk(int lane) { return lane / 8 % 2; }

#ifdef __CUDACC__

// One stage: the warp's tokens from row 0 of `tokens` by its rows of weight from row 0 of `weight`.
template <class Tile>
__device__ __forceinline__ void multiply_stage(int32_t (&sums)[Tile::WT / 16][Tile::WM / 8][4],
                                               const char *tokens, const char *weight, int lane) {
#pragma unroll
    for (int chunk = 0; chunk < GEMM_CHUNKS; chunk += 2) {
        uint32_t a[Tile::WT / 16][4], b[Tile::WM / 16][4];
#pragma unroll
        for (int i = 0; i < Tile::WT / 16; i++) {
            const int offset = chunk_offset(16 * i + token_row(lane), chunk + token_chunk(lane));
            load_matrices(a[i], shared_address(tokens + offset));
        }
#pragma unroll
        for (int j = 0; j < Tile::WM / 16; j++) {
            const int offset = chunk_offset(16 * j + weight_row(lane), chunk + weight_chunk(lane));
            load_matrices(b[j], shared_address(weight + offset));
        }
#pragma unroll
        for (int i = 0; i < Tile::WT / 16; i++) {
#pragma unroll
            for (int j = 0; j < Tile::WM / 8; j++) {
                mma(sums[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[j / 2][j % 2 * 2],
                    b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
}

// Grid: x = tiles of tokens * splits, y = tiles of weight. A block's rank in its tile is blockIdx.x % splits.
template <class End, class Tile>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    int8_gemm(Int8Product p, End end, int splits, bool x_aligned, bool weight_aligned) {
    extern __shared__ char shared[] __attribute__((aligned(128)));
    const int lane = threadIdx.x % 32, warp_t = Tile::warp_token(threadIdx.x), warp_m = Tile::warp_row(threadIdx.x);
    const int rank = blockIdx.x % splits;
    const int first_t = blockIdx.x / splits * Tile::BT, first_m = blockIdx.y * Tile::BM;
    const int pieces = (p.K + GEMM_COLUMNS - 1) / GEMM_COLUMNS;
    const int begin = rank * pieces / splits, stop = (rank + 1) * pieces / splits;

    auto stage = [&](int piece) { return shared + (piece - begin) % Tile::STAGES * Tile::STAGE_BYTES; };
    auto load_x = [&](int piece) {
        load_stage<Tile::BT, GEMM_COLUMNS, Tile::THREADS>(stage(piece), p.x, p.x_stride, p.T, p.K, first_t,
                                                          piece * GEMM_COLUMNS, x_aligned);
    };
    auto load_weight = [&](int piece) {
        load_stage<Tile::BM, GEMM_COLUMNS, Tile::THREADS>(stage(piece) + Tile::TOKENS_BYTES, p.weight, p.K, p.M, p.K,
                                                          first_m, piece * GEMM_COLUMNS, weight_aligned);
    };
    for (int i = 0; i < Tile::STAGES - 1; i++) {
        if (begin + i < stop) load_weight(begin + i);
    }
    let_next_kernel_begin();
    wait_for_inputs();
    for (int i = 0; i < Tile::STAGES - 1; i++) {
        if (begin + i < stop) load_x(begin + i);
        end_copy_group();
    }

    int32_t sums[Tile::WT / 16][Tile::WM / 8][4] = {};
    for (int piece = begin; piece < stop; piece++) {
        wait_copy_groups<Tile::STAGES - 2>();
        __syncthreads();
        const int next = piece + Tile::STAGES - 1;
        if (next < stop) {
            load_weight(next);
            load_x(next);
        }
        end_copy_group();
        multiply_stage<Tile>(sums, stage(piece) + warp_t * GEMM_COLUMNS,
                             stage(piece) + Tile::TOKENS_BYTES + warp_m * GEMM_COLUMNS, lane);
    }
    __syncthreads();  // the ring becomes the tile of sums

    int32_t *tile = reinterpret_cast<int32_t *>(shared);
    store_sums<Tile>(tile, sums, warp_t, warp_m, lane);
    __syncthreads();
    if (splits > 1) synchronize_cluster();
    const auto of_all_blocks = [&](const int32_t *four) {
        int4 total = *reinterpret_cast<const int4 *>(four);
        for (int other = 1; other < splits; other++) {
            const int4 part = load_from_block(shared_address(four), (rank + other) % splits);
            total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
        }
        return total;
    };
    end_tile<Tile>(tile, p.T, p.M, end, first_t, first_m, rank, splits, of_all_blocks);
    if (splits > 1) synchronize_cluster();  // no block may leave while another reads its sums
}

#endif  // __CUDACC__

}  // namespace quamba
