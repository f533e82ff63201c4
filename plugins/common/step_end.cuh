// What the step of one token does behind in_proj's sum: the projection's codes, and the causal convolution of some
// of them by the thread that ends their row, which holds the one new code of that channel.
#pragma once

#include "numeric.cuh"

#ifdef __CUDACC__
#include "overlap.cuh"
#endif

namespace quamba {

constexpr int LARGEST_WIDTH = 4;  // of the convolution

// What a projection ends with: its own end, then the convolution. Taps and codes of a channel lie in one word,
// the newest in the highest byte, zeros below those of a narrower convolution.
template <class Projection>
struct StepEnd {
    using Output = int8_t;
    struct Row {
        typename Projection::Row projection;
        bool convolved;
        uint32_t taps;
        float scale, bias, out_scale;
    };
    struct Loaded {
        int8_t past[LARGEST_WIDTH - 1];  // as they come from memory: what combines them would wait for them
        int8_t *state_out;               // W - 1 codes of this sequence and channel
    };

    int8_t *y;  // (T, M)
    Projection projection;
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

    // total: the row's sum of products, of the type that the projection's own end takes.
    template <class Total>
    QUAMBA_HOST_DEVICE int8_t value(Total total, const Row &row, const Loaded &loaded) const {
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

}  // namespace quamba
