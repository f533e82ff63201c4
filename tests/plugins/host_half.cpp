// The projections of fp16 numbers by codes on the host: the digits and what rounds their sums, and both kernels, block by
// block. test_host_half.py compiles it beside a copy of the kernels whose assembly is host_tensor_core.h.
#define __CUDACC__
#define QUAMBA_HOST_DEVICE inline
#define __maxnreg__(count)
#include "host_tensor_core.h"
#include "../HalfInt4Linear/kernel.cuh"
#include "../HalfInt4Projection/kernel.cuh"
#include "../HalfInt8Linear/kernel.cuh"
#include "../HalfInt8Projection/kernel.cuh"
#include "half_gemm.cuh"
#include "half_gemv.cuh"

using namespace quamba;

namespace {

enum Kernel { GEMV_ONE, GEMV, FEW, MANY };

template <class Work>
bool run_block(unsigned x, unsigned y, int threads, bool backwards, Work work) {
    blockIdx = {x, y, 0};
    forget_memory();
    early_copies = backwards;
    return host_gpu::run(threads, backwards, work);
}

template <class Format, class Product, class End>
bool run_gemv(const Product &p, const End &end, bool backwards) {
    constexpr int MULTIPROCESSORS = 3, DEPTH = Format::SMALL_DEPTH;
    const GemvShape shape = gemv_shape<Format>(p.K, p.M, p.T, MULTIPROCESSORS);
    if (GemvShared<Format>(p.K, p.T, shape, DEPTH).bytes() > int(sizeof(shared))) abort();
    const bool whole_rows = Format::row_bytes(p.K) % 16 == 0, whole_tokens = p.K % 4 == 0 && p.x_stride % 4 == 0;
    const auto kernel = whole_rows ? gemv<Format, Halves, End, true, DEPTH> : gemv<Format, Halves, End, false, DEPTH>;
    for (int first = 0, block = 0; first < p.M; first += shape.rows, block++) {
        const auto work = [&] { kernel(p, Halves{whole_tokens}, end, shape); };
        if (!run_block(block, 0, GEMV_THREADS, backwards, work)) return false;
    }
    return true;
}

template <class Weight, class Tile, class Product, class End>
bool run_tiles(const Product &p, const End &end, bool backwards) {
    static_assert(Tile::SHARED_BYTES <= sizeof(shared));
    const bool whole_rows = Weight::row_bytes(p.K) % 16 == 0, whole_tokens = p.K % 8 == 0 && p.x_stride % 8 == 0;
    for (int t = 0; t * Tile::BT < p.T; t++) {
        for (int m = 0; m * Tile::BM < p.M; m++) {
            const auto work = [&] { half_gemm<Weight, End, Tile>(p, end, whole_tokens, whole_rows); };
            if (!run_block(t, m, Tile::THREADS, backwards, work)) return false;
        }
    }
    return true;
}

template <template <int> class Format, class Weight, class Product, class End>
bool run(int kernel, const Product &p, const End &end, bool backwards) {
    switch (kernel) {
        case GEMV_ONE: return run_gemv<Format<1>>(p, end, backwards);
        case GEMV: return run_gemv<Format<GEMV_TOKENS>>(p, end, backwards);
        case FEW: return run_tiles<Weight, HalfFew<Weight>>(p, end, backwards);
        default: return run_tiles<Weight, HalfMany<Weight>>(p, end, backwards);
    }
}

}  // namespace

extern "C" {

// Each fails where threads wait for ever. kernel: a Kernel; backwards: see host_gpu::run, and copies arrive early.
bool int4_linear(int kernel, bool backwards, const uint16_t *x, const int8_t *weight, const uint16_t *weight_scale,
                 const float *bias, const float *residual, float *y, int64_t x_stride, int T, int K, int M) {
    const HalfInt4Product p = {x, weight, weight_scale, x_stride, T, K, M};
    return run<HalfInt4Format, HalfInt4Weight>(kernel, p, HalfInt4ResidualEnd{y, bias, residual, M}, backwards);
}

bool int4_projection(int kernel, bool backwards, const uint16_t *x, const int8_t *weight, const uint16_t *weight_scale,
                     const float *bias, __half *y, int64_t x_stride, int T, int K, int M) {
    const HalfInt4Product p = {x, weight, weight_scale, x_stride, T, K, M};
    return run<HalfInt4Format, HalfInt4Weight>(kernel, p, HalfInt4HalfEnd{y, bias}, backwards);
}

bool int8_linear(int kernel, bool backwards, const uint16_t *x, const int8_t *weight, const float *weight_scale,
                 const float *bias, const float *residual, float *y, int64_t x_stride, int T, int K, int M) {
    const HalfInt8Product p = {x, weight, x_stride, T, K, M};
    return run<HalfInt8Format, HalfInt8Weight>(kernel, p, HalfInt8ResidualEnd{y, weight_scale, bias, residual, M},
                                               backwards);
}

bool int8_projection(int kernel, bool backwards, const uint16_t *x, const int8_t *weight, const float *weight_scale,
                     const float *bias, __half *y, int64_t x_stride, int T, int K, int M) {
    const HalfInt8Product p = {x, weight, x_stride, T, K, M};
    return run<HalfInt8Format, HalfInt8Weight>(kernel, p, HalfInt8HalfEnd{y, weight_scale, bias}, backwards);
}

// limbs (6, count), of numbers four at a time.
void limbs(const uint16_t *bits, int count, int8_t *limbs) {
    for (int i = 0; i < count; i += 4) {
        uint32_t words[LIMBS];
        uint32_t pairs[2];
        memcpy(pairs, bits + i, sizeof(pairs));
        limb_words(words, pairs);
        for (int limb = 0; limb < LIMBS; limb++) memcpy(limbs + limb * count + i, &words[limb], 4);
    }
}

void nearest_floats(const int64_t *totals, int count, float *floats) {
    for (int i = 0; i < count; i++) floats[i] = nearest_float(totals[i]);
}

void halves(const float *values, int count, uint16_t *bits) {
    for (int i = 0; i < count; i++) bits[i] = __half_as_ushort(saturated_half(values[i]));
}
}
