// The host-device parts of RMSNormLinear and of the argmax for test_host_head.py, and the walk of all warps
// over the head's rows as loops.
#include "../../plugins/RMSNormLinear/kernel.cuh"
#include "../../plugins/common/argmax.cuh"

using namespace quamba;

extern "C" {

int head_pitch_of(int D) { return head_pitch(D); }

int head_place_of(int d) { return head_place(d); }

// sums (V) of one token, which lies as the kernel lays it, with weight (V, D) in fp32; times (V): how often
// each was written.
void walk_over_rows(const float *token, const float *weight, int D, int V, int warps, int rows, float *sums,
                    int32_t *times) {
    for (int warp = 0; warp < warps; warp++) {
        float lanes[32][4] = {};
        for (HeadStep step = HeadStep::first(warp, rows); step.row < V;) {
            for (int lane = 0; lane < 32; lane++) {
                for (int i = 0; i < 8; i++) {
                    const int d = step.d + 8 * lane + i;
                    const float x = token[step.d + i / 4 * (HEAD_STEP / 2) + 4 * lane + i % 4];
                    for (int r = 0; r < rows && step.row + r < V && d < D; r++)
                        lanes[lane][r] += x * weight[static_cast<int64_t>(step.row + r) * D + d];
                }
            }
            const int row = step.row;
            if (!step.advance(D, rows, warps)) continue;
            for (int r = 0; r < rows && row + r < V; r++) {
                sums[row + r] = 0.0f, times[row + r]++;
                for (int lane = 0; lane < 32; lane++) sums[row + r] += lanes[lane][r];
            }
            memset(lanes, 0, sizeof(lanes));
        }
    }
}

int64_t argmax_of(const float *logits, int count) {
    Rank highest = 0;
    for (int i = 0; i < count; i++) {
        const Rank rank = rank_of(logits[i], i);
        if (rank > highest) highest = rank;
    }
    return token_of(highest);
}
}
