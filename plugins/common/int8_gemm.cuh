// y (T, M) = end(x (T, K) @ weight (M, K)^T) for many tokens: tiles on the tensor cores.
//
// A block computes BT tokens by BM rows of weight, or, where the tiles are too few for the GPU, 1/splits of
// their K: the blocks of one tile then form a cluster (sm_90) and add up through each other's shared memory.
// Both operands come in pieces of 128 columns through a ring of STAGES in shared memory, their 16-byte chunks
// swizzled so that neither cp.async nor ldmatrix meets a bank twice. Tokens are the rows of mma.sync.
#pragma once

#include "cluster.cuh"
#include "int8_mma.cuh"

namespace quamba {

constexpr int GEMM_COLUMNS = 128;  // of both operands in one stage: one row is 128 bytes, eight chunks
constexpr int GEMM_CHUNKS = GEMM_COLUMNS / 16;

// Byte of chunk `chunk` of row `row` in a stage.
QUAMBA_HOST_DEVICE constexpr int chunk_offset(int row, int chunk) {
    return row * GEMM_COLUMNS + ((chunk ^ (row % GEMM_CHUNKS)) * 16);
}

// Row and chunk whose address a lane gives to load 16 tokens by 32 columns, the four words of an A operand;
QUAMBA_HOST_DEVICE constexpr int token_row(int lane) { return lane % 16; }
QUAMBA_HOST_DEVICE constexpr int token_chunk(int lane) { return lane / 16; }
// and to load 16 rows of weight by 32 columns, the two words of one B operand and the two of the next.
QUAMBA_HOST_DEVICE constexpr int weight_row(int lane) { return lane % 8 + lane / 16 * 8; }
QUAMBA_HOST_DEVICE constexpr int weight_chunk(int lane) { return lane / 8 % 2; }

// How a block divides its work; sums are padded so that rows of one fragment fall into different banks.
template <int BT_, int BM_, int WARPS_T, int WARPS_M, int STAGES_, int BLOCKS_>
struct GemmTile {
    static constexpr int BT = BT_, BM = BM_, STAGES = STAGES_, BLOCKS = BLOCKS_;  // BLOCKS: on one SM
    static constexpr int THREADS = 32 * WARPS_T * WARPS_M;
    static constexpr int WT = BT / WARPS_T, WM = BM / WARPS_M;  // tile of a warp
    static constexpr int STAGE_BYTES = (BT + BM) * GEMM_COLUMNS;
    static constexpr int SUMS_PITCH = BM + 8;
    static constexpr int SHARED_BYTES =
        STAGES * STAGE_BYTES > BT * SUMS_PITCH * 4 ? STAGES * STAGE_BYTES : BT * SUMS_PITCH * 4;
    static_assert(WT % 16 == 0 && WM % 16 == 0, "a warp multiplies 16 tokens by 16 rows");
    static_assert(THREADS % (BM / 4) == 0, "a thread ends sums of the same four rows of weight throughout");
};

#ifdef __CUDACC__

// ROWS rows from `first` of a matrix, 128 columns from k, into a stage; zeros outside the matrix.
template <int ROWS, int THREADS>
__device__ __forceinline__ void load_stage(char *stage, const int8_t *matrix, int64_t stride, int rows, int K,
                                           int first, int k, bool aligned) {
#pragma unroll
    for (int i = 0; i < ROWS * GEMM_CHUNKS; i += THREADS) {
        const int piece = i + threadIdx.x, row = piece / GEMM_CHUNKS, chunk = piece % GEMM_CHUNKS;
        if (ROWS * GEMM_CHUNKS % THREADS != 0 && row >= ROWS) break;
        const int column = k + 16 * chunk;
        const bool inside = first + row < rows && column < K;
        const int8_t *from = matrix + (first + row) * stride + column;
        char *to = stage + chunk_offset(row, chunk);
        if (aligned) {
            copy_async(shared_address(to), inside ? from : matrix, inside ? 16 : 0);
        } else {
            *reinterpret_cast<uint4 *>(to) = load_codes(from, inside ? K - column : 0);
        }
    }
}

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

// Ends the sums of tokens rank, rank + splits, .. of the tile, four neighbouring rows of weight a thread.
template <class Tile, class End>
__device__ __forceinline__ void end_tile(const int32_t *sums, const Int8Product &p, const End &end,
                                         int first_t, int first_m, int rank, int splits) {
    using Output = typename End::Output;
    struct alignas(4 * sizeof(Output)) Outputs {
        Output values[4];
    };
    constexpr int LANES = Tile::BM / 4;
    const int m = first_m + threadIdx.x % LANES * 4, count = min(4, p.M - m);
    if (count <= 0) return;
    typename End::Row rows[4];
#pragma unroll
    for (int i = 0; i < 4; i++) rows[i] = end.row(min(m + i, p.M - 1));
    const bool whole = p.M % 4 == 0 && reinterpret_cast<uintptr_t>(end.y) % sizeof(Outputs) == 0;

    for (int token = threadIdx.x / LANES * splits + rank; token < Tile::BT;
         token += Tile::THREADS / LANES * splits) {
        const int t = first_t + token;
        if (t >= p.T) return;
        const int32_t *here = sums + token * Tile::SUMS_PITCH + threadIdx.x % LANES * 4;
        int4 total = *reinterpret_cast<const int4 *>(here);
        for (int other = 1; other < splits; other++) {
            const int4 part = load_from_block(shared_address(here), (rank + other) % splits);
            total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
        }
        const int32_t totals[4] = {total.x, total.y, total.z, total.w};
        Outputs outputs{};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i < count) outputs.values[i] = end.value(totals[i], rows[i], end.load(t, m + i));
        }
        Output *y = end.y + static_cast<int64_t>(t) * p.M + m;
        if (whole) {
            *reinterpret_cast<Outputs *>(y) = outputs;
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (i < count) y[i] = outputs.values[i];
            }
        }
    }
}

// Grid: x = tiles of tokens * splits, y = tiles of weight. A block's rank in its tile is blockIdx.x % splits.
template <class End, class Tile>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    int8_gemm(Int8Product p, End end, int splits, bool x_aligned, bool weight_aligned) {
    extern __shared__ char shared[] __attribute__((aligned(128)));
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_t = warp % (Tile::BT / Tile::WT) * Tile::WT,
              warp_m = warp / (Tile::BT / Tile::WT) * Tile::WM;
    const int rank = blockIdx.x % splits;
    const int first_t = blockIdx.x / splits * Tile::BT, first_m = blockIdx.y * Tile::BM;
    const int pieces = (p.K + GEMM_COLUMNS - 1) / GEMM_COLUMNS;
    const int begin = rank * pieces / splits, stop = (rank + 1) * pieces / splits;

    auto stage = [&](int piece) { return shared + (piece - begin) % Tile::STAGES * Tile::STAGE_BYTES; };
    auto load_x = [&](int piece) {
        load_stage<Tile::BT, Tile::THREADS>(stage(piece), p.x, p.x_stride, p.T, p.K, first_t,
                                            piece * GEMM_COLUMNS, x_aligned);
    };
    auto load_weight = [&](int piece) {
        load_stage<Tile::BM, Tile::THREADS>(stage(piece) + Tile::BT * GEMM_COLUMNS, p.weight, p.K, p.M, p.K,
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
                             stage(piece) + (Tile::BT + warp_m) * GEMM_COLUMNS, lane);
    }
    __syncthreads();  // the ring becomes the tile of sums

    int32_t *tile = reinterpret_cast<int32_t *>(shared);
#pragma unroll
    for (int i = 0; i < Tile::WT / 16; i++) {
#pragma unroll
        for (int j = 0; j < Tile::WM / 8; j++) {
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                const int t = warp_t + 16 * i + sum_row(lane, half),
                          m = warp_m + 8 * j + sum_column(lane, half);
                *reinterpret_cast<int2 *>(tile + t * Tile::SUMS_PITCH + m) = {sums[i][j][half],
                                                                              sums[i][j][half + 1]};
            }
        }
    }
    __syncthreads();
    if (splits > 1) synchronize_cluster();
    end_tile<Tile>(tile, p, end, first_t, first_m, rank, splits);
    if (splits > 1) synchronize_cluster();  // no block may leave while another reads its sums
}

#endif  // __CUDACC__

}  // namespace quamba
