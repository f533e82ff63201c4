// y (T, M) = end(x (T, K) @ weight (M, K)^T) for up to eight tokens: the time is that of reading weight once.
//
// A block an SM: it owns a run of rows of weight, 16 at a time, and its warps share them out, by K and, where K
// is short, by rows too. Every thread copies its own part of the weight, 16 bytes a time, into slots of shared
// memory that no other thread reads, DEPTH steps ahead, so no barrier is needed. It begins before the kernels in
// front have ended, and weight flows while a norm or a scan is waited for. The slots, not registers, hold what has
// arrived, so that a block of in_proj and one of out_proj fit on an SM together. Two of in_proj must not, or some
// SMs would get two and others none: it has more than half of an SM's registers.
//
// The slots are the A operand of mma.sync, the tokens its eight columns. Lane l reads columns 16 (l % 4) .. + 15 of
// 64 where the instruction wants columns 4 (l % 4) and 16 + 4 (l % 4): the sum does not mind the order so long as x
// is read from the same places. Warps add up through shared memory; integers make every order the same.
#pragma once

#include "int8_mma.cuh"

namespace quamba {

constexpr int GEMV_TOKENS = 8;
constexpr int GEMV_STEP = 64;  // columns of weight that a warp multiplies at a time
constexpr int GEMV_ROWS = 16;  // rows of weight likewise
constexpr int GEMV_WARPS = 16, GEMV_THREADS = 32 * GEMV_WARPS;
constexpr int GEMV_SMALL_DEPTH = 3;  // steps ahead where a block has less shared memory: 99 KiB on sm_86, sm_89
constexpr int GEMV_RESERVE = 1024;   // bytes of shared memory for what a source declares itself

// Bytes from one token to the next in shared memory: whole steps, an odd number, so that the eight lanes of
// one phase of a 16-byte load (two tokens by four pieces) meet no bank twice.
QUAMBA_HOST_DEVICE constexpr int gemv_pitch(int K) {
    return ((K + GEMV_STEP - 1) / GEMV_STEP | 1) * GEMV_STEP;
}

// How the warps of a block share its rows out.
struct GemvShape {
    int rows;     // of a block, a multiple of 8
    int k_warps;  // warps that share the columns of the same rows, a power of two

    QUAMBA_HOST_DEVICE int chunks() const { return (rows + GEMV_ROWS - 1) / GEMV_ROWS; }

    // Of the sums of a block, (chunks, k_warps, T, GEMV_ROWS) int32.
    QUAMBA_HOST_DEVICE int sum_bytes(int T) const { return chunks() * k_warps * T * GEMV_ROWS * 4; }
};

// Rows so that every SM gets one block and all blocks the same; a thread ends a row, so no block has more of them.
// The warps are shared out so that the one with the most loads has the fewest.
QUAMBA_HOST_DEVICE constexpr GemvShape gemv_shape(int K, int M, int T, int multiprocessors) {
    const int most = T <= 2 ? GEMV_THREADS : GEMV_THREADS / 4;
    const int even = (M + 8 * multiprocessors - 1) / (8 * multiprocessors) * 8;
    const int steps = (K + GEMV_STEP - 1) / GEMV_STEP;
    GemvShape best = {even < most ? even : most, 1};
    int fewest = 0;
    for (int k_warps = 1; k_warps <= GEMV_WARPS && k_warps <= steps; k_warps *= 2) {
        const int sets = GEMV_WARPS / k_warps;
        const int loads = (steps + k_warps - 1) / k_warps * ((best.chunks() + sets - 1) / sets);
        if (k_warps == 1 || loads <= fewest) best.k_warps = k_warps, fewest = loads;
    }
    return best;
}

// Shared memory of a block that is `depth` steps ahead, in bytes.
QUAMBA_HOST_DEVICE int64_t gemv_shared_bytes(int K, int T, const GemvShape &shape, int depth) {
    return int64_t(depth) * GEMV_THREADS * 32 + int64_t(T) * gemv_pitch(K) + shape.sum_bytes(T);
}

// Steps ahead, `most` or a few, for a GPU that gives a block `available` bytes of shared memory; 0 where int8_gemv
// does not fit.
QUAMBA_HOST_DEVICE int gemv_depth(int K, int M, int T, int multiprocessors, int available, int most) {
    if (T > GEMV_TOKENS) return 0;
    const GemvShape shape = gemv_shape(K, M, T, multiprocessors);
    if (gemv_shared_bytes(K, T, shape, most) + GEMV_RESERVE <= available) return most;
    return gemv_shared_bytes(K, T, shape, GEMV_SMALL_DEPTH) + GEMV_RESERVE <= available ? GEMV_SMALL_DEPTH : 0;
}

// What a warp multiplies: steps begin .. stop of K, in every chunk_stride-th chunk of rows from `chunk` on.
struct WarpShare {
    int begin, stop, chunk, chunk_stride;

    QUAMBA_HOST_DEVICE WarpShare(const GemvShape &shape, int K, int warp)
        : chunk(warp / shape.k_warps), chunk_stride(GEMV_WARPS / shape.k_warps) {
        const int steps = (K + GEMV_STEP - 1) / GEMV_STEP, k_warp = warp % shape.k_warps;
        begin = k_warp * steps / shape.k_warps, stop = (k_warp + 1) * steps / shape.k_warps;
    }

    QUAMBA_HOST_DEVICE int steps() const { return stop - begin; }  // of a chunk

    QUAMBA_HOST_DEVICE int all_steps(int chunks) const {
        return chunk < chunks ? ((chunks - chunk - 1) / chunk_stride + 1) * steps() : 0;
    }
};

// Where a lane is in its loads: 16 columns from k on of `row` and of the row eight below, all of the warp's columns
// of a chunk, then of its next chunk.
struct WeightWalk {
    int row, k, left;  // left: steps of this chunk, this one too
    int steps, chunk_rows;
    int64_t at, to_next_chunk;  // at: of weight, in bytes

    QUAMBA_HOST_DEVICE WeightWalk(const WarpShare &share, int K, int first_row, int lane)
        : row(first_row + share.chunk * GEMV_ROWS + lane / 4), k(share.begin * GEMV_STEP + lane % 4 * 16),
          left(share.steps()), steps(share.steps()), chunk_rows(share.chunk_stride * GEMV_ROWS),
          at(int64_t(row) * K + k), to_next_chunk(int64_t(chunk_rows) * K - int64_t(steps - 1) * GEMV_STEP) {}

    QUAMBA_HOST_DEVICE void advance() {
        const bool last = --left == 0;
        at += last ? to_next_chunk : GEMV_STEP;
        k += last ? (1 - steps) * GEMV_STEP : GEMV_STEP;
        row += last ? chunk_rows : 0;
        left = last ? steps : left;
    }
};

#ifdef __CUDACC__

// Where the codes of the tokens come from: here, from memory.
struct Codes {
    bool aligned;  // rows of x begin on 16 bytes and K % 16 == 0

    // Brings the tokens into shared memory, zeros behind column K.
    template <int THREADS>
    __device__ __forceinline__ void stage(uint4 *tokens, const Int8Product &p) const {
        const int pieces = (p.K + GEMV_STEP - 1) / GEMV_STEP * (GEMV_STEP / 16);
        for (int i = threadIdx.x; i < p.T * pieces; i += THREADS) {
            const int t = i / pieces, k = i % pieces * 16;
            const int8_t *from = p.x + t * p.x_stride + k;
            uint4 codes = {0, 0, 0, 0};
            if (k < p.K) codes = aligned ? *reinterpret_cast<const uint4 *>(from) : load_codes(from, p.K - k);
            tokens[(t * gemv_pitch(p.K) + k) / 16] = codes;
        }
    }
};

// A thread's part of 16 rows by 64 columns of weight: 16 columns of rows lane / 4 and 8 + lane / 4.
struct WeightStep {
    uint4 upper, lower;
};

__device__ __forceinline__ void multiply_step(int32_t (&sums)[4], const WeightStep &weight, uint4 x) {
    mma(sums, weight.upper.x, weight.lower.x, weight.upper.y, weight.lower.y, x.x, x.y);
    mma(sums, weight.upper.z, weight.lower.z, weight.upper.w, weight.lower.w, x.z, x.w);
}

// Starts to bring a step. ALIGNED: weight begins on 16 bytes and K % 16 == 0; else it is there on return. Rows
// from last_row on and columns from K on are zero.
template <bool ALIGNED>
__device__ __forceinline__ void copy_step(uint4 *upper, uint4 *lower, const Int8Product &p, int last_row,
                                          const WeightWalk &walk) {
    const bool column = walk.k < p.K, in_upper = column && walk.row < last_row;
    const bool in_lower = column && walk.row + 8 < last_row;
    const int8_t *codes = p.weight + walk.at, *lower_codes = codes + 8 * int64_t(p.K);
    if constexpr (ALIGNED) {
        copy_streamed(shared_address(upper), codes, in_upper ? 16 : 0);
        copy_streamed(shared_address(lower), lower_codes, in_lower ? 16 : 0);
    } else {
        *upper = in_upper ? load_codes(codes, p.K - walk.k) : uint4{0, 0, 0, 0};
        *lower = in_lower ? load_codes(lower_codes, p.K - walk.k) : uint4{0, 0, 0, 0};
    }
}

// source: brings the codes of the tokens into shared memory. End::REGISTERS: of a thread. End::NEXT_MAY_BEGIN_EARLY:
// whether the kernel behind may come before the inputs are there.
template <class Source, class End, bool ALIGNED, int DEPTH>
__global__ void __maxnreg__(End::REGISTERS) int8_gemv(Int8Product p, Source source, End end, GemvShape shape) {
    extern __shared__ uint4 slots[];  // (DEPTH, 2, threads), tokens (T, gemv_pitch(K) / 16), sums (see GemvShape)
    uint4 *tokens = slots + DEPTH * 2 * GEMV_THREADS;
    int32_t *partial = reinterpret_cast<int32_t *>(tokens + p.T * (gemv_pitch(p.K) / 16));
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k_warp = warp % shape.k_warps;
    const int first_row = blockIdx.x * shape.rows, last_row = min(first_row + shape.rows, p.M);

    // the thread ends row m of tokens first_t, first_t + abreast, ..
    const int abreast = GEMV_THREADS / shape.rows, first_t = threadIdx.x / shape.rows;
    const int row_in_block = threadIdx.x % shape.rows, m = first_row + row_in_block;
    const bool ends = first_t < abreast && first_t < p.T && m < last_row;
    typename End::Row row{};

    const WarpShare share(shape, p.K, warp);
    const int all_steps = share.all_steps(shape.chunks());
    WeightWalk ahead(share, p.K, first_row, lane);
    int to_copy = all_steps;
    uint4 *const first_slot = slots + threadIdx.x, *const last_slot = first_slot + (DEPTH - 1) * 2 * GEMV_THREADS;
    const auto copy_next = [&](uint4 *slot) {
        if (to_copy > 0) {
            copy_step<ALIGNED>(slot, slot + GEMV_THREADS, p, last_row, ahead);
            ahead.advance();
            to_copy--;
        }
        end_copy_group();
    };
#pragma unroll
    for (int slot = 0; slot < DEPTH; slot++) copy_next(first_slot + slot * 2 * GEMV_THREADS);
    if (ends) {
        row = end.row(m);
        end.prefetch(first_t, m);
    }
    if (End::NEXT_MAY_BEGIN_EARLY) let_next_kernel_begin();
    wait_for_inputs();
    source.template stage<GEMV_THREADS>(tokens, p);
    typename End::Loaded loaded{};
    if (ends) loaded = end.load(first_t, m);
    __syncthreads();
    if (!End::NEXT_MAY_BEGIN_EARLY) let_next_kernel_begin();

    int32_t sums[4] = {};
    const uint4 *const first_piece =
        tokens + lane / 4 * (gemv_pitch(p.K) / 16) + share.begin * (GEMV_STEP / 16) + lane % 4;
    const uint4 *piece = first_piece;
    uint4 *slot = first_slot;
    int32_t *to = partial + (share.chunk * shape.k_warps + k_warp) * p.T * GEMV_ROWS;
    for (int step = 0, left = share.steps(); step < all_steps; step++) {
        wait_copy_groups<DEPTH - 1>();
        const WeightStep weight = {slot[0], slot[GEMV_THREADS]};
        multiply_step(sums, weight, lane / 4 < p.T ? *piece : uint4{0, 0, 0, 0});
        copy_next(slot);  // it has been read
        slot = slot == last_slot ? first_slot : slot + 2 * GEMV_THREADS;
        piece += GEMV_STEP / 16;
        if (--left > 0) continue;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int t = sum_column(lane, j);
            if (t < p.T) to[t * GEMV_ROWS + sum_row(lane, j)] = sums[j];
            sums[j] = 0;
        }
        to += share.chunk_stride * shape.k_warps * p.T * GEMV_ROWS;
        left = share.steps(), piece = first_piece;
    }
    __syncthreads();
    if (!ends) return;
    const int32_t *own = partial + row_in_block / GEMV_ROWS * shape.k_warps * p.T * GEMV_ROWS;
    for (int t = first_t; t < p.T; t += abreast) {
        int32_t total = 0;
#pragma unroll 4
        for (int k = 0; k < shape.k_warps; k++)
            total += own[(k * p.T + t) * GEMV_ROWS + row_in_block % GEMV_ROWS];
        if (t != first_t) loaded = end.load(t, m);
        end.y[static_cast<int64_t>(t) * p.M + m] = end.value(total, row, loaded);
    }
}

#endif  // __CUDACC__

}  // namespace quamba
