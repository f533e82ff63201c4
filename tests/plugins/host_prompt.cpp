// The kernel of Mamba-1's prompts, plugins/QuantizedSelectiveScan/prompt.cuh, block by block on the host.
#define __CUDACC__
#define QUAMBA_HOST_DEVICE inline
#include "host_gpu.h"

namespace quamba {
alignas(16) __shared__ unsigned char raw[1 << 17];  // a block's shared memory
}

#include "../../plugins/QuantizedSelectiveScan/prompt.cuh"

using namespace quamba;

namespace {

template <class Stored, class Shape>
bool run(const QuambaQuantizedSelectiveScan &op, const RowScales &rows, bool backwards) {
    static_assert(sizeof(PromptShared<QuambaQuantizedSelectiveScan, Shape>) <= sizeof(raw));
    for (unsigned b = 0; b < op.size.B; b++) {
        for (unsigned x = 0; x * Shape::CHANNELS < op.size.E; x++) {
            blockIdx = {x, b, 0};
            memset(raw, 0xff, sizeof(raw));  // NaN
            if (!host_gpu::run(Shape::THREADS, backwards, [&] { selective_prompt<Stored, Shape>(op, rows); })) {
                return false;
            }
        }
    }
    return true;
}

}  // namespace

extern "C" {

bool wide_prompt(const QuambaQuantizedSelectiveScan *op, bool backwards) {
    return run<float, PromptShape<12, 32, 8, 1>>(*op, {}, backwards);
}

bool prompt_of_rows(const QuambaQuantizedSelectiveScan *op, float *row_scale, bool backwards) {
    return run<RowCode, PromptShape<8, 32, 8, 3>>(*op, {row_scale, row_scale}, backwards);
}

bool prompt_by_chance(const QuambaQuantizedSelectiveScan *op, float *row_scale, bool backwards) {
    return run<ChanceCode, PromptShape<8, 32, 8, 3>>(*op, {row_scale, row_scale}, backwards);
}

bool prompt(const QuambaQuantizedSelectiveScan *op, bool backwards) {
    return run<float, PromptShape<8, 32, 8, 3>>(*op, {}, backwards);
}

}  // extern "C"
