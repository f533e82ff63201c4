// What the tiles of int8_gemm.cuh and int4_gemm.cuh share: how a block divides its work, how both operands come into
// shared memory, and how the sums leave it.
//
// A tile is BT tokens by BM rows of weight. Both operands come in pieces of 128 columns through a ring of STAGES in
// shared memory, their 16-byte chunks swizzled so that neither cp.async nor ldmatrix meets a bank twice.
#pragma once

#include "int8_mma.cuh"

namespace quamba {

constexpr int GEMM_COLUMNS = 128;  // of both operands in one stage: a token's row is 128 bytes

// Byte of chunk `chunk` of row `row` in a stage whose rows are ROW_BYTES long: eight rows meet no bank twice.
template <int ROW_BYTES = GEMM_COLUMNS>
QUAMBA_HOST_DEVICE constexpr int chunk_offset(int row, int chunk) {
    constexpr int CHUNKS = ROW_BYTES / 16, ROWS_A_LINE = 128 / ROW_BYTES;
    return row * ROW_BYTES + ((chunk ^ (row / ROWS_A_LINE % CHUNKS)) * 16);
}

// Whether rows of `bytes` can be copied in chunks of 16 bytes, `stride` apart.
inline bool whole_chunks(const int8_t *matrix, int64_t stride, int bytes) {
    return reinterpret_cast<uintptr_t>(matrix) % 16 == 0 && stride % 16 == 0 && bytes % 16 == 0 && stride <= INT32_MAX;
}

// Row and chunk whose address a lane gives to load 16 tokens by 32 columns, the four words of an A operand.
QUAMBA_HOST_DEVICE constexpr int token_row(int lane) { return lane % 16; }
QUAMBA_HOST_DEVICE constexpr int token_chunk(int lane) { return lane / 16; }

// WEIGHT_BYTES: of a row of weight in a stage. Sums are padded so that rows of one fragment fall into different banks.
template <int BT_, int BM_, int WARPS_T, int WARPS_M, int STAGES_, int BLOCKS_, int WEIGHT_BYTES_ = GEMM_COLUMNS>
struct GemmTile {
    static constexpr int BT = BT_, BM = BM_, STAGES = STAGES_, BLOCKS = BLOCKS_;  // BLOCKS: on one SM
    static constexpr int WEIGHT_BYTES = WEIGHT_BYTES_;
    static constexpr int THREADS = 32 * WARPS_T * WARPS_M;
    static constexpr int WT = BT / WARPS_T, WM = BM / WARPS_M;  // tile of a warp
    static constexpr int TOKENS_BYTES = BT * GEMM_COLUMNS;      // of a stage, in front of the weight
    static constexpr int STAGE_BYTES = TOKENS_BYTES + BM * WEIGHT_BYTES;
    static constexpr int SUMS_PITCH = BM + 8;
    static constexpr int SHARED_BYTES =
        STAGES * STAGE_BYTES > BT * SUMS_PITCH * 4 ? STAGES * STAGE_BYTES : BT * SUMS_PITCH * 4;
    static_assert(WT % 16 == 0 && WM % 8 == 0, "a warp multiplies 16 tokens by 8 rows");
    static_assert(THREADS % (BM / 4) == 0, "a thread ends sums of the same four rows of weight throughout");

    // Of this thread's warp, in the tile.
    static QUAMBA_HOST_DEVICE constexpr int warp_token(int thread) { return thread / 32 % (BT / WT) * WT; }
    static QUAMBA_HOST_DEVICE constexpr int warp_row(int thread) { return thread / 32 / (BT / WT) * WM; }
};

#ifdef __CUDACC__

// ROWS rows from `first` of a matrix, ROW_BYTES from `begin` on, into a stage; zeros behind a row's last byte, and its last
// row again behind that: nobody asks for their sums. aligned: see whole_chunks().
template <int ROWS, int ROW_BYTES, int THREADS>
__device__ __forceinline__ void load_stage(char *stage, const int8_t *matrix, int64_t stride, int rows, int bytes,
                                           int first, int begin, bool aligned) {
    constexpr int CHUNKS = ROW_BYTES / 16, STEP = THREADS / CHUNKS;  // rows at a time
    const int first_row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, at = begin + 16 * chunk;
    const auto row_of = [&](int row) { return min(first + row, rows - 1); };
    const auto to = [&](int row) { return stage + chunk_offset<ROW_BYTES>(row, chunk); };
    if (aligned) {
        const int8_t *column = matrix + at;
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP) {
            const int row = i + first_row;
            if (ROWS % STEP != 0 && row >= ROWS) break;
            const int8_t *from = column + int64_t(row_of(row)) * int(stride);
            copy_async(shared_address(to(row)), from, at < bytes ? 16 : 0);
        }
        return;
    }
#pragma unroll 1
    for (int row = first_row; row < ROWS; row += STEP)
        *reinterpret_cast<uint4 *>(to(row)) = load_codes(matrix + row_of(row) * stride + at, bytes - at);
}

// The sums of a warp into the tile (BT, SUMS_PITCH).
template <class Tile, class Sum>
__device__ __forceinline__ void store_sums(Sum *tile, const Sum (&sums)[Tile::WT / 16][Tile::WM / 8][4], int warp_t,
                                           int warp_m, int lane) {
    struct alignas(2 * sizeof(Sum)) Pair {
        Sum first, second;
    };
#pragma unroll
    for (int i = 0; i < Tile::WT / 16; i++) {
#pragma unroll
        for (int j = 0; j < Tile::WM / 8; j++) {
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                const int t = warp_t + 16 * i + sum_row(lane, half), m = warp_m + 8 * j + sum_column(lane, half);
                *reinterpret_cast<Pair *>(tile + t * Tile::SUMS_PITCH + m) = {sums[i][j][half], sums[i][j][half + 1]};
            }
        }
    }
}

// Ends the sums of four neighbouring rows of weight from m on.
template <class End>
struct FourRows {
    using Output = typename End::Output;
    struct alignas(4 * sizeof(Output)) Outputs {
        Output values[4];
    };
    const End &end;
    int m, M;
    bool whole;
    typename End::Row rows[4];

    __device__ __forceinline__ FourRows(const End &end, int m, int M) : end(end), m(m), M(M) {
        whole = M % 4 == 0 && reinterpret_cast<uintptr_t>(end.y) % sizeof(Outputs) == 0;
#pragma unroll
        for (int i = 0; i < 4; i++) rows[i] = end.row(min(m + i, M - 1));
    }

    template <class Sum>
    __device__ __forceinline__ void finish(int t, const Sum (&sums)[4]) const {
        Outputs outputs{};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (m + i < M) outputs.values[i] = end.value(sums[i], rows[i], end.load(t, m + i));
        }
        Output *y = end.y + static_cast<int64_t>(t) * M + m;
        if (whole) {
            *reinterpret_cast<Outputs *>(y) = outputs;
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (m + i < M) y[i] = outputs.values[i];
            }
        }
    }
};

// Ends the sums (BT, SUMS_PITCH) of tokens first, first + step, .. of the tile. four_of(address): four sums as x, y, z, w.
template <class Tile, class Sum, class End, class Four>
__device__ __forceinline__ void end_tile(const Sum *sums, int T, int M, const End &end, int first_t, int first_m,
                                         int first, int step, Four four_of) {
    constexpr int LANES = Tile::BM / 4;
    const int m = first_m + threadIdx.x % LANES * 4;
    if (m >= M) return;
    const FourRows<End> rows(end, m, M);
    for (int token = threadIdx.x / LANES * step + first; token < Tile::BT; token += Tile::THREADS / LANES * step) {
        if (first_t + token >= T) return;
        const auto four = four_of(sums + token * Tile::SUMS_PITCH + threadIdx.x % LANES * 4);
        const Sum values[4] = {four.x, four.y, four.z, four.w};
        rows.finish(first_t + token, values);
    }
}

#endif  // __CUDACC__

}  // namespace quamba
