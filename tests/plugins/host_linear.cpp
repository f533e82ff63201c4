// The host-device parts of the int8 linear kernels for test_host_linear.py: their fp32 ends, and replays of
// the lanes of one warp, where mma.sync and ldmatrix are loops that do what the PTX manual says.
#include <cstring>

#include "../../plugins/InputProjectionStep/kernel.cuh"
#include "../../plugins/QuantizedLinear/kernel.cuh"
#include "../../plugins/RequantizedLinear/kernel.cuh"
#include "../../plugins/common/half_gemv.cuh"
#include "../../plugins/common/int8_gemm.cuh"
#include "../../plugins/common/int4_gemm.cuh"
#include "../../plugins/common/int4_gemv.cuh"
#include "../../plugins/common/int8_gemv.cuh"

using namespace quamba;

namespace {

constexpr int LANES = 32;

struct Word {
    int8_t codes[4];
};

Word word_at(const int8_t *codes) {
    Word word;
    std::memcpy(word.codes, codes, sizeof(word));
    return word;
}

// sums += A B for a warp: each lane brings four words of A and two of B and holds four sums.
void mma(int32_t (*sums)[4], const Word (*a)[4], const Word (*b)[2]) {
    int A[16][32], B[32][8], C[16][8] = {};
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 4; j++) {
                A[fragment_row(lane, i)][fragment_k(lane, i) + j] = a[lane][i].codes[j];
                if (i < 2) B[fragment_k(lane, 2 * i) + j][fragment_row(lane, 0)] = b[lane][i].codes[j];
            }
        }
    }
    for (int row = 0; row < 16; row++) {
        for (int column = 0; column < 8; column++) {
            for (int k = 0; k < 32; k++) C[row][column] += A[row][k] * B[k][column];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) sums[lane][i] += C[sum_row(lane, i)][sum_column(lane, i)];
    }
}

// Row r of matrix i is the 16 bytes at offsets[8 i + r]; lane l gets word l % 4 of row l / 4 of each.
void load_matrices(Word (*words)[4], const int8_t *stage, const int *offsets) {
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++)
            words[lane][i] = word_at(stage + offsets[8 * i + lane / 4] + lane % 4 * 4);
    }
}

}  // namespace

extern "C" {

void requantized_end(const int32_t *totals, int T, int M, float x_scale, const float *weight_scale,
                     const float *bias, const float *out_scale, int8_t *y) {
    const RequantizedEnd end = {y, weight_scale, bias, out_scale, x_scale};
    for (int i = 0; i < T * M; i++) end.y[i] = end.value(totals[i], end.row(i % M), end.load(i / M, i % M));
}

void residual_end(const int32_t *totals, int T, int M, float x_scale, const float *weight_scale,
                  const float *bias, const float *residual, float *y) {
    const ResidualEnd end = {y, weight_scale, bias, residual, M, x_scale};
    for (int i = 0; i < T * M; i++) end.y[i] = end.value(totals[i], end.row(i % M), end.load(i / M, i % M));
}

// end: all but y and the projection's own pointers, which are named one by one.
void projection_step_end(const int32_t *totals, int T, int M, float x_scale, const float *weight_scale,
                         const float *bias, const float *out_scale, int8_t *y, const int8_t *state,
                         const int8_t *weight, const float *conv_x_scale, const float *conv_weight_scale,
                         const float *conv_bias, const float *conv_out_scale, int8_t *state_out, int begin, int C,
                         int W) {
    const ProjectionStepEnd end = {y,
                                   {y, weight_scale, bias, out_scale, x_scale},
                                   state,
                                   weight,
                                   conv_x_scale,
                                   conv_weight_scale,
                                   conv_bias,
                                   conv_out_scale,
                                   state_out,
                                   begin,
                                   C,
                                   W};
    for (int i = 0; i < T * M; i++) end.y[i] = end.value(totals[i], end.row(i % M), end.load(i / M, i % M));
}

// One step of a gemv of int8 codes: weight (16, 64) by x (8, 64) -> sums (8, 16).
void replay_gemv_step(const int8_t *weight, const int8_t *x, int32_t *sums) {
    int32_t held[LANES][4] = {};
    for (int half = 0; half < 2; half++) {
        Word a[LANES][4], b[LANES][2];
        for (int lane = 0; lane < LANES; lane++) {
            const int from = lane / 4 * GEMV_STEP + lane % 4 * 16 + 8 * half;
            for (int i = 0; i < 4; i++)
                a[lane][i] = word_at(weight + i % 2 * 8 * GEMV_STEP + from + i / 2 * 4);
            for (int i = 0; i < 2; i++) b[lane][i] = word_at(x + from + 4 * i);
        }
        mma(held, a, b);
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) sums[sum_column(lane, i) * 16 + sum_row(lane, i)] = held[lane][i];
    }
}

// One stage of int8_gemm: x (16, 128) by weight (16, 128) -> sums (16, 16), both swizzled in the stage.
void replay_gemm_stage(const int8_t *x, const int8_t *weight, int32_t *sums) {
    int8_t tokens[16 * GEMM_COLUMNS], rows[16 * GEMM_COLUMNS];
    for (int row = 0; row < 16; row++) {
        for (int chunk = 0; chunk < GEMM_CHUNKS; chunk++) {
            std::memcpy(tokens + chunk_offset(row, chunk), x + row * GEMM_COLUMNS + chunk * 16, 16);
            std::memcpy(rows + chunk_offset(row, chunk), weight + row * GEMM_COLUMNS + chunk * 16, 16);
        }
    }
    int32_t held[2][LANES][4] = {};
    for (int chunk = 0; chunk < GEMM_CHUNKS; chunk += 2) {
        int offsets[2][LANES];
        for (int lane = 0; lane < LANES; lane++) {
            offsets[0][lane] = chunk_offset(token_row(lane), chunk + token_chunk(lane));
            offsets[1][lane] = chunk_offset(weight_row(lane), chunk + weight_chunk(lane));
        }
        Word a[LANES][4], b[LANES][4], operand[LANES][2];
        load_matrices(a, tokens, offsets[0]);
        load_matrices(b, rows, offsets[1]);
        for (int j = 0; j < 2; j++) {
            for (int lane = 0; lane < LANES; lane++)
                std::memcpy(operand[lane], &b[lane][2 * j], sizeof(operand[lane]));
            mma(held[j], a, operand);
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int j = 0; j < 2; j++) {
            for (int i = 0; i < 4; i++) {
                sums[sum_row(lane, i) * 16 + 8 * j + sum_column(lane, i)] = held[j][lane][i];
            }
        }
    }
}

// One group of int4_gemm: x (16, 128) by weight (8, 64) of two codes a byte -> sixteen times the sums (16, 8).
void replay_int4_group(const int8_t *x, const int8_t *weight, int32_t *sums) {
    int8_t tokens[16 * GEMM_COLUMNS], rows[8 * GROUP_BYTES];
    for (int row = 0; row < 16; row++) {
        for (int chunk = 0; chunk < 8; chunk++)
            std::memcpy(tokens + chunk_offset(row, chunk), x + row * GEMM_COLUMNS + chunk * 16, 16);
    }
    for (int row = 0; row < 8; row++) {
        for (int chunk = 0; chunk < GROUP_CHUNKS; chunk++)
            std::memcpy(rows + chunk_offset<GROUP_BYTES>(row, chunk), weight + row * GROUP_BYTES + chunk * 16, 16);
    }
    int offsets[2][LANES];
    Word both[LANES][4];
    for (int lane = 0; lane < LANES; lane++) offsets[1][lane] = chunk_offset<GROUP_BYTES>(codes_row(lane), codes_chunk(lane));
    load_matrices(both, rows, offsets[1]);
    int32_t held[LANES][4] = {};
    for (int c = 0; c < GROUP_CHUNKS; c++) {
        Word a[LANES][4], b[LANES][2];
        for (int lane = 0; lane < LANES; lane++) {
            offsets[0][lane] = chunk_offset(token_row(lane), token_chunk(lane)) ^ 32 * c;
            for (int i = 0; i < 4; i++) {
                b[lane][0].codes[i] = static_cast<int8_t>(both[lane][c].codes[i] << 4);
                b[lane][1].codes[i] = static_cast<int8_t>(both[lane][c].codes[i] & 0xf0);
            }
        }
        load_matrices(a, tokens, offsets[0]);
        mma(held, a, b);
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) sums[sum_row(lane, i) * 8 + sum_column(lane, i)] = held[lane][i];
    }
}

// Where the scale of a lane's column i of its j-th eight rows stands, and where the lane looks for it.
int scale_place_of(int lane, int j, int i) { return scale_place<32>(8 * j + sum_column(lane, i)); }
int scale_of_lane(int lane, int j, int i) { return lane % 4 * (32 / 4) + 2 * j + i; }

int int4_offset(int lane) { return chunk_offset<GROUP_BYTES>(codes_row(lane), codes_chunk(lane)); }

int gemv_depth_of(int K, int M, int T, int multiprocessors, int available, int most) {
    return gemv_depth<Int8Format>(K, M, T, multiprocessors, available, most);
}

int int4_gemv_depth_of(int K, int M, int T, int multiprocessors, int available, int most) {
    return gemv_depth<Int4Format>(K, M, T, multiprocessors, available, most);
}

int half_int4_gemv_depth_of(int K, int M, int T, int multiprocessors, int available, int most) {
    return gemv_depth<HalfInt4Format<GEMV_TOKENS>>(K, M, T, multiprocessors, available, most);
}

int half_int8_gemv_depth_of(int K, int M, int T, int multiprocessors, int available, int most) {
    return gemv_depth<HalfInt8Format<GEMV_TOKENS>>(K, M, T, multiprocessors, available, most);
}

// Byte in a token's or several tokens' rows of a lane's first piece in step 0.
int gemv_piece(int lane, int K) { return 16 * Int8Format::first_piece(lane, 0, K); }
int int4_gemv_piece(int lane, int K) { return 16 * Int4Format::first_piece(lane, 0, K); }

// Blocks of a gemv; how often the lanes of the second block's warps come to each 16 bytes of each row of it, with the
// rows of a block last: visits (16 chunks, 4 steps), 1 + entries. -1 where a walk's offset is not its place.
int gemv_visits(int row_bytes, int M, int T, int multiprocessors, int32_t *visits) {
    const GemvShape shape = gemv_shape<Int8Format>(row_bytes, M, T, multiprocessors);
    const int pieces = gemv_steps(row_bytes) * (GEMV_STEP / 16), first_row = shape.rows;
    for (int warp = 0; warp < GEMV_WARPS; warp++) {
        const WarpShare share(shape, row_bytes, warp);
        for (int lane = 0; lane < 32; lane++) {
            WeightWalk walk(share, row_bytes, first_row, lane);
            for (int step = 0; step < share.all_steps(shape.chunks()); step++, walk.advance()) {
                if (walk.at != int64_t(walk.row) * row_bytes + walk.k) return -1;
                int32_t *upper = visits + (walk.row - first_row) * pieces + walk.k / 16;
                upper[0]++, upper[8 * pieces]++;
            }
        }
    }
    visits[shape.chunks() * GEMV_ROWS * pieces] = shape.rows;
    return (M + shape.rows - 1) / shape.rows;
}

// Byte in a stage that a lane reads as the kernel loads A (operand 0) or B (operand 1).
int gemm_offset(int operand, int lane, int chunk) {
    return operand == 0 ? chunk_offset(token_row(lane), chunk + token_chunk(lane))
                        : chunk_offset(weight_row(lane), chunk + weight_chunk(lane));
}
}
