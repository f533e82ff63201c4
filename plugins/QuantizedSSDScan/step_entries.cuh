// Entries of a row side by side in one lane, as words: of B and C, and of the states that one token reads and writes.
#pragma once

#include <type_traits>

#include "../common/state.cuh"

#ifdef __CUDACC__

namespace quamba {

// COUNT entries of a row, and the words that hold them.
template <class T, int COUNT>
struct Entry {
    static constexpr int BYTES = COUNT * sizeof(T);
    using Piece =
        std::conditional_t<BYTES >= 4, uint32_t, std::conditional_t<BYTES == 2, uint16_t, uint8_t>>;
    struct alignas(BYTES < 16 ? BYTES : 16) Words {
        Piece at[BYTES / sizeof(Piece)];
    };
    T at[COUNT];
};

// The states of a warp as they are stored; for int8 with the reciprocals of their scales, made before the wait.
template <class Stored, int ROWS, int N_LANE, bool = HAS_ROW_SCALES<Stored>>
struct StoredStates {
    static constexpr bool SCALED = false;  // by scales that are found here
    Entry<Stored, N_LANE> held[ROWS];
    Entry<float, N_LANE> scale[ROWS], reciprocal[ROWS];
    bool plain = true;  // every scale has a plain reciprocal

    // Scales of row r; those from entry `count` on are none.
    __device__ __forceinline__ void set_scale(int r, const Entry<float, N_LANE> &of, int count) {
        scale[r] = of;
#pragma unroll
        for (int k = 0; k < N_LANE; k++) {
            plain = plain && (k >= count || has_plain_reciprocal(of.at[k]));
            reciprocal[r].at[k] = plain_reciprocal(of.at[k]);
        }
    }

    __device__ __forceinline__ float load(int r, int k) const {
        return State<Stored>::load(held[r].at[k], scale[r].at[k]);
    }

    // PLAIN: every scale of the warp has a plain reciprocal.
    template <bool PLAIN>
    __device__ __forceinline__ void store(const float (&next)[ROWS][N_LANE]) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int k = 0; k < N_LANE; k++) {
                if constexpr (sizeof(Stored) > 1) {
                    held[r].at[k] = State<Stored>::store(next[r][k], 1.0f);
                } else if constexpr (PLAIN) {
                    held[r].at[k] = quantized_by(next[r][k], scale[r].at[k], reciprocal[r].at[k]);
                } else {
                    held[r].at[k] = quantized_anyhow(next[r][k], scale[r].at[k]);
                }
            }
        }
    }
};

// Those of rows with scales of their own, which every lane finds in `largest_of_lanes`.
template <class Stored, int ROWS, int N_LANE>
struct StoredStates<Stored, ROWS, N_LANE, true> {
    static constexpr bool SCALED = true;
    Entry<Stored, N_LANE> held[ROWS];
    float scale[ROWS];
    static constexpr bool plain = true;

    __device__ __forceinline__ float load(int r, int k) const {
        return State<Stored>::load(held[r].at[k], scale[r]);
    }

    template <bool>
    __device__ __forceinline__ void store(const float (&next)[ROWS][N_LANE]) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const RowScale row = found_row_scale<32>(next[r]);
            scale[r] = row.scale;
#pragma unroll
            for (int k = 0; k < N_LANE; k++) {
                held[r].at[k] = {static_cast<int8_t>(row.steps<Stored>(next[r][k]))};
            }
        }
    }
};

// Entries from `first` on of a row of N, zero from N on. WHOLE: all of them, from a word on.
template <bool WHOLE, int COUNT, class T>
__device__ __forceinline__ Entry<T, COUNT> read_entries(const T *row, int first, int N) {
    Entry<T, COUNT> entries{};
    if constexpr (WHOLE) {
        const auto words = *reinterpret_cast<const typename Entry<T, COUNT>::Words *>(row + first);
        memcpy(&entries, &words, sizeof(words));
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            if (first + k < N) entries.at[k] = row[first + k];
        }
    }
    return entries;
}

template <bool WHOLE, int COUNT, class T>
__device__ __forceinline__ void write_entries(T *row, const Entry<T, COUNT> &entries, int first, int N) {
    if constexpr (WHOLE) {
        typename Entry<T, COUNT>::Words words;
        memcpy(&words, &entries, sizeof(words));
        *reinterpret_cast<typename Entry<T, COUNT>::Words *>(row + first) = words;
    } else {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
            if (first + k < N) row[first + k] = entries.at[k];
        }
    }
}

}  // namespace quamba

#endif  // __CUDACC__
