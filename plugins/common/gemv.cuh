// y (T, M) = end(x (T, K) @ weight (M, K)^T) for up to eight tokens: the time is that of reading weight once.
//
// A block an SM: it owns a run of rows of weight, 16 at a time, and its warps share them out, by K and, where K
// is short, by rows too. Every thread copies its own part of the weight, 16 bytes a time, into slots of shared
// memory that no other thread reads, DEPTH steps ahead, so no barrier is needed. It begins before the kernels in
// front have ended, and weight flows while a norm or a scan is waited for. The slots, not registers, hold what has
// arrived, so that a block of in_proj and one of out_proj fit on an SM together. Two of in_proj must not, or some
// SMs would get two and others none: it has more than half of an SM's registers.
//
// The slots are the A operand of mma.sync, the tokens its eight columns; where a token is several rows of int8 digits
// (Format::LIMBS), those are the columns and each token has sums of its own. Warps add up through shared memory. What
// the bytes of a weight mean is the Format's: int8_gemv.cuh, int4_gemv.cuh, half_gemv.cuh.
#pragma once

#include "int8_mma.cuh"

namespace quamba {

constexpr int GEMV_TOKENS = 8;
constexpr int GEMV_STEP = 64;  // bytes of a row of weight that a warp multiplies at a time
constexpr int GEMV_ROWS = 16;  // rows of weight likewise
constexpr int GEMV_WARPS = 16, GEMV_THREADS = 32 * GEMV_WARPS;
constexpr int GEMV_SMALL_DEPTH = 3;  // steps ahead where a block has less shared memory: 99 KiB on sm_86, sm_89
constexpr int GEMV_RESERVE = 1024;   // bytes of shared memory for what a source declares itself

QUAMBA_HOST_DEVICE constexpr int gemv_steps(int row_bytes) { return (row_bytes + GEMV_STEP - 1) / GEMV_STEP; }

// How the warps of a block share its rows out.
struct GemvShape {
    int rows;     // of a block, a multiple of 8
    int k_warps;  // warps that share the columns of the same rows, a power of two

    QUAMBA_HOST_DEVICE int chunks() const { return (rows + GEMV_ROWS - 1) / GEMV_ROWS; }
};

// Rows so that every SM gets one block and all blocks the same; a thread ends a row, so no block has more of them.
// The warps are shared out so that the one with the most loads has the fewest.
template <class Format>
QUAMBA_HOST_DEVICE constexpr GemvShape gemv_shape(int K, int M, int T, int multiprocessors) {
    const int threads = T <= 2 ? GEMV_THREADS : GEMV_THREADS / 4, sums = Format::most_rows(K, T);
    const int most = sums < threads ? sums : threads;
    const int even = (M + 8 * multiprocessors - 1) / (8 * multiprocessors) * 8;
    const int steps = gemv_steps(Format::row_bytes(K));
    GemvShape best = {even < most ? even : most, 1};
    int fewest = 0;
    for (int k_warps = 1; k_warps <= GEMV_WARPS && k_warps <= steps; k_warps *= 2) {
        const int sets = GEMV_WARPS / k_warps;
        const int loads = (steps + k_warps - 1) / k_warps * ((best.chunks() + sets - 1) / sets);
        if (k_warps == 1 || loads <= fewest) best.k_warps = k_warps, fewest = loads;
    }
    return best;
}

// Parts of a block's shared memory, in bytes, in their order.
template <class Format>
struct GemvShared {
    int slots, tokens, scales, sums;

    // Of a block that is `depth` steps ahead.
    QUAMBA_HOST_DEVICE GemvShared(int K, int T, const GemvShape &shape, int depth)
        : slots(depth * GEMV_THREADS * 32), tokens(T * Format::LIMBS * Format::pitch(K)),
          scales((shape.rows * Format::scales(K) * 2 + 15) / 16 * 16),
          sums(shape.chunks() * Format::parts(shape, K) * T * Format::SUMS * GEMV_ROWS * 4) {}

    QUAMBA_HOST_DEVICE int64_t bytes() const { return int64_t(slots) + tokens + scales + sums; }
};

// Steps ahead, `most` or a few, for a GPU that gives a block `available` bytes of shared memory; 0 where the kernel
// does not fit.
template <class Format>
QUAMBA_HOST_DEVICE int gemv_depth(int K, int M, int T, int multiprocessors, int available, int most) {
    if (T > Format::MOST_TOKENS) return 0;
    const GemvShape shape = gemv_shape<Format>(K, M, T, multiprocessors);
    const auto fits = [&](int depth) {
        return GemvShared<Format>(K, T, shape, depth).bytes() + GEMV_RESERVE <= available;
    };
    return fits(most) ? most : fits(Format::SMALL_DEPTH) ? Format::SMALL_DEPTH : 0;
}

// What a warp multiplies: steps begin .. stop of a row, in every chunk_stride-th chunk of rows from `chunk` on.
struct WarpShare {
    int begin, stop, chunk, chunk_stride;

    QUAMBA_HOST_DEVICE WarpShare(const GemvShape &shape, int row_bytes, int warp)
        : chunk(warp / shape.k_warps), chunk_stride(GEMV_WARPS / shape.k_warps) {
        const int steps = gemv_steps(row_bytes), k_warp = warp % shape.k_warps;
        begin = k_warp * steps / shape.k_warps, stop = (k_warp + 1) * steps / shape.k_warps;
    }

    QUAMBA_HOST_DEVICE int steps() const { return stop - begin; }  // of a chunk

    QUAMBA_HOST_DEVICE int all_steps(int chunks) const {
        return chunk < chunks ? ((chunks - chunk - 1) / chunk_stride + 1) * steps() : 0;
    }
};

// Where a lane is in its loads: 16 bytes from k on of `row` and of the row eight below, all that the warp has of a
// chunk, then of its next chunk.
struct WeightWalk {
    int row, k, left;  // left: steps of this chunk, this one too
    int steps, chunk_rows;
    int64_t at, to_next_chunk;  // at: of weight, in bytes

    QUAMBA_HOST_DEVICE WeightWalk(const WarpShare &share, int row_bytes, int first_row, int lane)
        : row(first_row + share.chunk * GEMV_ROWS + lane / 4), k(share.begin * GEMV_STEP + lane % 4 * 16),
          left(share.steps()), steps(share.steps()), chunk_rows(share.chunk_stride * GEMV_ROWS),
          at(int64_t(row) * row_bytes + k),
          to_next_chunk(int64_t(chunk_rows) * row_bytes - int64_t(steps - 1) * GEMV_STEP) {}

    QUAMBA_HOST_DEVICE void advance() {
        const bool last = --left == 0;
        at += last ? to_next_chunk : GEMV_STEP;
        k += last ? (1 - steps) * GEMV_STEP : GEMV_STEP;
        row += last ? chunk_rows : 0;
        left = last ? steps : left;
    }
};

#ifdef __CUDACC__

// Registers of a thread. clang, which compiles for a Jetson, does not know __maxnreg__; there no kernel begins early.
#ifdef __clang__
#define QUAMBA_REGISTERS(count) __launch_bounds__(GEMV_THREADS)
#else
#define QUAMBA_REGISTERS(count) __maxnreg__(count)
#endif

// Where the codes of the tokens come from: here, from memory.
struct Codes {
    bool aligned;  // rows of x begin on 16 bytes and K % 16 == 0

    // Brings the tokens into shared memory, zeros behind column K.
    template <class Format>
    __device__ __forceinline__ void stage(uint4 *tokens, const typename Format::Product &p) const {
        const int pieces = Format::whole_columns(p.K) / 16;
        for (int i = threadIdx.x; i < p.T * pieces; i += GEMV_THREADS) {
            const int t = i / pieces, k = i % pieces * 16;
            const int8_t *from = p.x + t * p.x_stride + k;
            uint4 codes = {0, 0, 0, 0};
            if (k < p.K) codes = aligned ? *reinterpret_cast<const uint4 *>(from) : load_codes(from, p.K - k);
            tokens[(t * Format::pitch(p.K) + k) / 16] = codes;
        }
    }
};

// A thread's part of 16 rows by 64 bytes of weight: 16 bytes of rows lane / 4 and 8 + lane / 4.
struct WeightStep {
    uint4 upper, lower;
};

// Starts to bring a step. ALIGNED: weight begins on 16 bytes and row_bytes % 16 == 0; else it is there on return.
// Rows from last_row on and bytes from row_bytes on are zero.
template <bool ALIGNED>
__device__ __forceinline__ void copy_step(uint4 *upper, uint4 *lower, const int8_t *weight, int row_bytes,
                                          int last_row, const WeightWalk &walk) {
    const bool column = walk.k < row_bytes, in_upper = column && walk.row < last_row;
    const bool in_lower = column && walk.row + 8 < last_row;
    const int8_t *codes = weight + walk.at, *lower_codes = codes + 8 * int64_t(row_bytes);
    if constexpr (ALIGNED) {
        copy_streamed(shared_address(upper), codes, in_upper ? 16 : 0);
        copy_streamed(shared_address(lower), lower_codes, in_lower ? 16 : 0);
    } else {
        *upper = in_upper ? load_codes(codes, row_bytes - walk.k) : uint4{0, 0, 0, 0};
        *lower = in_lower ? load_codes(lower_codes, row_bytes - walk.k) : uint4{0, 0, 0, 0};
    }
}

// The integer sums of eight tokens by 16 rows of weight to where the threads that end the rows look for them.
__device__ __forceinline__ void store_columns(int32_t *to, const int32_t (&sums)[4], int lane, int T) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int t = sum_column(lane, j);
        if (t < T) to[t * GEMV_ROWS + sum_row(lane, j)] = sums[j];
    }
}

// source: brings the codes of the tokens into shared memory. End::REGISTERS: of a thread. End::NEXT_MAY_BEGIN_EARLY:
// whether the kernel behind may come before the inputs are there.
template <class Format, class Source, class End, bool ALIGNED, int DEPTH>
__global__ void QUAMBA_REGISTERS(End::REGISTERS + 5 * (Format::TILES - 1))
    gemv(typename Format::Product p, Source source, End end, GemvShape shape) {
    extern __shared__ uint4 slots[];  // (DEPTH, 2, threads), then as GemvShared says
    const GemvShared<Format> shared(p.K, p.T, shape, DEPTH);
    uint4 *tokens = slots + shared.slots / 16;
    uint16_t *scales = reinterpret_cast<uint16_t *>(tokens + shared.tokens / 16);            // (rows, scales of a row)
    int32_t *partial = reinterpret_cast<int32_t *>(tokens + (shared.tokens + shared.scales) / 16);
    const int row_bytes = Format::row_bytes(p.K), parts = Format::parts(shape, p.K);  // partial: (chunks, parts, T, SUMS, 16)
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = blockIdx.x * shape.rows, last_row = min(first_row + shape.rows, p.M);

    // the thread ends row m of tokens first_t, first_t + abreast, ..
    const int abreast = GEMV_THREADS / shape.rows, first_t = threadIdx.x / shape.rows;
    const int row_in_block = threadIdx.x % shape.rows, m = first_row + row_in_block;
    const bool ends = first_t < abreast && first_t < p.T && m < last_row;
    typename End::Row row{};

    const WarpShare share(shape, row_bytes, warp);
    const int all_steps = share.all_steps(shape.chunks());
    WeightWalk ahead(share, row_bytes, first_row, lane);
    int to_copy = all_steps;
    uint4 *const first_slot = slots + threadIdx.x, *const last_slot = first_slot + (DEPTH - 1) * 2 * GEMV_THREADS;
    const auto copy_next = [&](uint4 *slot) {
        if (to_copy > 0) {
            copy_step<ALIGNED>(slot, slot + GEMV_THREADS, p.weight, row_bytes, last_row, ahead);
            ahead.advance();
            to_copy--;
        }
        end_copy_group();
    };
#pragma unroll
    for (int slot = 0; slot < DEPTH; slot++) copy_next(first_slot + slot * 2 * GEMV_THREADS);
    Format::load_scales(scales, p, first_row, last_row);
    if (ends) {
        row = end.row(m);
        end.prefetch(first_t, m);
    }
    if (End::NEXT_MAY_BEGIN_EARLY) let_next_kernel_begin();
    wait_for_inputs();
    source.template stage<Format>(tokens, p);
    typename End::Loaded loaded{};
    if (ends) loaded = end.load(first_t, m);
    __syncthreads();
    if (!End::NEXT_MAY_BEGIN_EARLY) let_next_kernel_begin();

    int32_t sums[Format::TILES][4] = {};
    const uint4 *const first_piece = tokens + Format::first_piece(lane, share.begin, p.K);
    const uint4 *piece = first_piece;
    uint4 *slot = first_slot;
    const int token = Format::SUMS * GEMV_ROWS, part = p.T * token;
    int32_t *to = partial + (share.chunk * parts + Format::first_part(share, warp % shape.k_warps)) * part;
    for (int step = 0, left = share.steps(); step < all_steps; step++) {
        wait_copy_groups<DEPTH - 1>();
        const WeightStep weight = {slot[0], slot[GEMV_THREADS]};
#pragma unroll
        for (int tile = 0; tile < Format::TILES; tile++) {
            if (tile > 0 && tile >= p.T) break;
            Format::multiply_step(sums[tile], weight, piece + tile * (Format::LIMBS * Format::pitch(p.K) / 16),
                                  Format::has_column(lane / 4, p.T));
        }
        copy_next(slot);  // it has been read
        slot = slot == last_slot ? first_slot : slot + 2 * GEMV_THREADS;
        piece += Format::COLUMNS / 16;
        const bool last_of_chunk = --left == 0;
        if (!Format::SUM_A_STEP && !last_of_chunk) continue;
#pragma unroll
        for (int tile = 0; tile < Format::TILES; tile++) {
            if (tile > 0 && tile >= p.T) break;
            Format::store(to + tile * token, sums[tile], lane, p.T);
#pragma unroll
            for (int j = 0; j < 4; j++) sums[tile][j] = 0;
        }
        to += Format::SUM_A_STEP ? part : 0;
        if (!last_of_chunk) continue;
        to += (share.chunk_stride * parts - (Format::SUM_A_STEP ? share.steps() : 0)) * part;
        left = share.steps(), piece = first_piece;
    }
    __syncthreads();
    if (!ends) return;
    const int32_t *own = partial + row_in_block / GEMV_ROWS * parts * part + row_in_block % GEMV_ROWS;
    for (int t = first_t; t < p.T; t += abreast) {
        if (t != first_t) loaded = end.load(t, m);
        const auto sum = Format::total(own + t * token, parts, part, scales + row_in_block * Format::scales(p.K));
        end.y[static_cast<int64_t>(t) * p.M + m] = end.value(sum, row, loaded);
    }
}

#endif  // __CUDACC__

}  // namespace quamba
