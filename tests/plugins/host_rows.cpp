// States with a scale a row, for test_host_rows.py: their scalar mathematics, and the lanes of a warp as loops.
#include "../../plugins/common/rotation.cuh"
#include "../../plugins/common/state.cuh"

using namespace quamba;

namespace {

constexpr int LANES = 32, N_LANE = 8;  // the widest: 256 entries

template <bool WORDS>
int place(int lane, int k) {
    return WORDS ? N_LANE * lane + k : lane + LANES * k;
}

// N entries as a warp rotates them.
template <bool WORDS>
void rotate_as_a_warp(float *entries, int N) {
    float held[LANES][N_LANE], old[LANES][N_LANE];
    for (int lane = 0; lane < LANES; lane++) {
        for (int k = 0; k < N_LANE; k++) {
            held[lane][k] = place<WORDS>(lane, k) < N ? entries[place<WORDS>(lane, k)] : 0.0f;
        }
    }
    for (int half = 1; half < rotation_size(N); half *= 2) {
        const auto stage = RotationStage<WORDS, N_LANE>::of(half);
        memcpy(old, held, sizeof(held));
        for (int lane = 0; lane < LANES; lane++) {
            for (int k = 0; k < N_LANE; k++) {
                const float other = stage.in_lane ? old[lane][k ^ stage.distance] : old[lane ^ stage.distance][k];
                held[lane][k] = rotated_entry(old[lane][k], other, (stage.in_lane ? k : lane) & stage.distance);
            }
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int k = 0; k < N_LANE; k++) {
            if (place<WORDS>(lane, k) < N) entries[place<WORDS>(lane, k)] = held[lane][k];
        }
    }
}

template <class Stored>
void step(int8_t *codes, float *scale, float decay, float input, const float *B, const float *C, int N,
          float *next, float *read) {
    float peak = 0.0f;
    for (int n = 0; n < N; n++) {
        const Stored code{{codes[n]}};
        next[n] = next_state(State<Stored>::load(code, *scale), decay, input, B[n]);
        read[n] = next[n] * C[n];
        peak = fmaxf(peak, fabsf(next[n]));
    }
    const RowScale row = RowScale::of(peak);
    for (int n = 0; n < N; n++) codes[n] = static_cast<int8_t>(row.steps<Stored>(next[n]));
    *scale = row.scale;
}

}  // namespace

extern "C" {

void rotate_words(float *entries, int N) { rotate_as_a_warp<true>(entries, N); }
void rotate_columns(float *entries, int N) { rotate_as_a_warp<false>(entries, N); }

// A row behind one token: codes and scale in place, and h C.
void step_row(int8_t *codes, float *scale, float decay, float input, const float *B, const float *C, int N,
              float *next, float *read) {
    step<RowCode>(codes, scale, decay, input, B, C, N, next, read);
}

void step_row_by_chance(int8_t *codes, float *scale, float decay, float input, const float *B, const float *C,
                        int N, float *next, float *read) {
    step<ChanceCode>(codes, scale, decay, input, B, C, N, next, read);
}

void raise_by_chance(float *steps, int count) {
    for (int i = 0; i < count; i++) steps[i] = up_by_chance(steps[i]);
}

// How many codes come back from the registers of a kernel as another code, over all codes and `count` scales.
int lost_codes(const float *scales, int count) {
    int lost = 0;
    for (int i = 0; i < count; i++) {
        for (int code = -127; code <= 127; code++) {
            lost += State<ChanceCode>::store(static_cast<float>(code) * scales[i], scales[i]).code != code;
        }
    }
    return lost;
}

}  // extern "C"
