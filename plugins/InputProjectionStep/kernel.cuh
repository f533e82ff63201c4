// One token: x is normed and quantized in front of the projection's integer product, and the channels of the
// convolution are convolved behind it, where the thread that ends a row holds the one new code of that channel.
#pragma once

#include "../RequantizedLinear/kernel.cuh"
#include "../common/batches.cuh"
#include "../common/int8_gemv.cuh"

#ifdef __CUDACC__
#include "../common/block.cuh"
#endif

namespace quamba {

constexpr int LARGEST_WIDTH = 4;  // of the convolution

// What the projection ends with: its own end, then the convolution. Taps and codes of a channel lie in one word,
// the newest in the highest byte, zeros below those of a narrower convolution.
struct ProjectionStepEnd {
    using Output = int8_t;
    static constexpr int DEPTH = 7, REGISTERS = 72;      // see gemv.cuh; room for a block of out_proj is left
    static constexpr bool NEXT_MAY_BEGIN_EARLY = false;  // a scan's blocks would fill what out_proj's weight needs
    struct Row {
        RequantizedEnd::Row projection;
        bool convolved;
        uint32_t taps;
        float scale, bias, out_scale;
    };
    struct Loaded {
        int8_t past[LARGEST_WIDTH - 1];  // as they come from memory: what combines them would wait for them
        int8_t *state_out;               // W - 1 codes of this sequence and channel
    };

    int8_t *y;  // (T, M)
    RequantizedEnd projection;
    const int8_t *state, *weight;  // (T, C, W - 1), (C, W)
    const float *x_scale, *weight_scale, *bias, *out_scale;
    int8_t *state_out;  // may be `state` itself: a channel is read and written by one thread
    int begin, C, W;    // rows of the projection from `begin` on are the channels

    QUAMBA_HOST_DEVICE bool convolved(int m) const { return m >= begin && m < begin + C; }

    // `count` codes as the highest bytes below byte `end` of a word.
    static QUAMBA_HOST_DEVICE uint32_t word(const int8_t *codes, int count, int end) {
        uint32_t packed = 0;
#pragma unroll
        for (int i = 0; i < LARGEST_WIDTH; i++) {
            if (i < count) packed |= static_cast<uint32_t>(static_cast<uint8_t>(codes[i])) << 8 * (end - count + i);
        }
        return packed;
    }

    QUAMBA_HOST_DEVICE Row row(int m) const {
        Row row{};
        row.projection = projection.row(m);
        row.convolved = convolved(m);
        if (!row.convolved) return row;
        const int c = m - begin;
        row.scale = x_scale[c] * weight_scale[c], row.bias = bias[c], row.out_scale = out_scale[c];
        row.taps = word(weight + static_cast<int64_t>(c) * W, W, LARGEST_WIDTH);
        return row;
    }

    // Where the state of a channel begins.
    QUAMBA_HOST_DEVICE int64_t state_at(int t, int m) const {
        return (static_cast<int64_t>(t) * C + m - begin) * (W - 1);
    }

#ifdef __CUDACC__
    __device__ void prefetch(int t, int m) const {
        if (convolved(m)) prefetch_into_L2(state + state_at(t, m));
    }
#endif

    QUAMBA_HOST_DEVICE Loaded load(int t, int m) const {
        if (!convolved(m)) return {};
        const int64_t at = state_at(t, m);
        Loaded loaded = {{}, state_out + at};
#pragma unroll
        for (int i = 0; i < LARGEST_WIDTH - 1; i++) {
            if (i < W - 1) loaded.past[i] = state[at + i];
        }
        return loaded;
    }

    QUAMBA_HOST_DEVICE int8_t value(int32_t total, const Row &row, const Loaded &loaded) const {
        const int8_t code = projection.value(total, row.projection, {});
        if (!row.convolved) return code;
        const uint32_t codes = word(loaded.past, W - 1, LARGEST_WIDTH - 1) | static_cast<uint32_t>(static_cast<uint8_t>(code)) << 24;
#pragma unroll
        for (int i = 0; i < LARGEST_WIDTH - 1; i++) {
            if (i < W - 1) loaded.state_out[i] = static_cast<int8_t>(codes >> 8 * (LARGEST_WIDTH + 1 - W + i));
        }
        return quantized_silu(static_cast<float>(word_product(row.taps, codes)) * row.scale + row.bias,
                              row.out_scale);
    }

    // The sum of the products of four codes each.
    static QUAMBA_HOST_DEVICE int word_product(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
        return __dp4a(static_cast<int>(a), static_cast<int>(b), 0);
#else
        int sum = 0;
        for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
        return sum;
#endif
    }
};

#ifdef __CUDACC__

// One token of fp32, normed and quantized by every block for itself; a block an SM makes that cheap.
struct NormedToken {
    static constexpr int HELD = 2;  // times four entries that a thread keeps in registers

    const float *x;
    float epsilon, scale;
    bool aligned;  // x begins on 16 bytes and K % 4 == 0

    template <class Format>
    __device__ __forceinline__ void stage(uint4 *tokens, const typename Format::Product &p) const {
        if (aligned && p.K <= HELD * 4 * GEMV_THREADS) {
            stage_held(reinterpret_cast<char4 *>(tokens), p.K, Format::whole_columns(p.K));
        } else {
            stage_twice(reinterpret_cast<int8_t *>(tokens), p.K, Format::whole_columns(p.K));
        }
    }

    // What codes are made with, of the block's sum of squares.
    struct Quantizer {
        float root, scale, reciprocal;

        __device__ __forceinline__ int8_t operator()(float v) const {
            return quantized_quotient(v, root, scale, reciprocal);
        }
    };

    __device__ __forceinline__ Quantizer quantizer(double squares, int K) const {
        const float root = root_mean_square(block_sum<GEMV_THREADS>(squares), K, epsilon);
        return {root, scale, quotient_reciprocal(root, scale)};
    }

    // Read once: what memory takes is waited for once.
    __device__ __forceinline__ void stage_held(char4 *codes, int K, int columns) const {
        float4 held[HELD];
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int i = threadIdx.x + j * GEMV_THREADS;
            held[j] = 4 * i < K ? reinterpret_cast<const float4 *>(x)[i] : float4{0.0f, 0.0f, 0.0f, 0.0f};
        }
        double sums[HELD] = {};
        const auto add = [](double sum, float v) { return fma(static_cast<double>(v), static_cast<double>(v), sum); };
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            sums[j] = add(add(add(add(0.0, held[j].x), held[j].y), held[j].z), held[j].w);
            if (j > 0) sums[0] += sums[j];
        }
        const Quantizer code = quantizer(sums[0], K);
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            const int i = threadIdx.x + j * GEMV_THREADS;
            if (4 * i < columns) codes[i] = {code(held[j].x), code(held[j].y), code(held[j].z), code(held[j].w)};
        }
    }

    __device__ __forceinline__ void stage_twice(int8_t *codes, int K, int columns) const {
        const auto load = [&](int k) { return x[k]; };
        double sum = 0.0;
        in_batches<8>(K, load, [&](int, float v) { sum = fma(static_cast<double>(v), static_cast<double>(v), sum); });
        const Quantizer code = quantizer(sum, K);
        in_batches<8>(K, load, [&](int k, float v) { codes[k] = code(v); });
        for (int k = K + threadIdx.x; k < columns; k += GEMV_THREADS) codes[k] = 0;
    }
};

#endif  // __CUDACC__

}  // namespace quamba
