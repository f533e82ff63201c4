// C ABI of GatedRMSNormHadamardQuantize; the struct is made from op.py.
#include "../common/hadamard_launch.cuh"
#include "kernel.cuh"

namespace quamba {

// Shared memory of any block: the gate's table and the groups' roots; and of block_sum(), where a kernel takes it.
constexpr int64_t TABLE_BYTES = sizeof(float) * 256 + sizeof(Root) * MOST_GROUPS, SUM_BYTES = sizeof(double) * 32;

// Shared memory of a block that holds `count` entries.
inline int64_t gated_bytes(int64_t count, int groups, int threads) {
    return entries_bytes(count) + int64_t(sizeof(double)) * groups * group_parts(groups, threads);
}

template <int RADIX>
auto whole_kernel(int threads) {
    return threads <= SMALL_BLOCK ? gated_norm_hadamard_quantize_whole<RADIX, SMALL_BLOCK, 2>
                                  : gated_norm_hadamard_quantize_whole<RADIX, 1024, 1>;
}

}  // namespace quamba

extern "C" const char *quamba_GatedRMSNormHadamardQuantize_refusal(
    const QuambaGatedRMSNormHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    if (op->n_groups > quamba::MOST_GROUPS) return "n_groups must be at most 256";
    const int threads = quamba::token_threads(op->size.E);
    const int64_t bytes = quamba::gated_bytes(op->size.E, op->n_groups, threads);
    return quamba::shared_memory_refusal(bytes + quamba::TABLE_BYTES);
}

extern "C" size_t quamba_GatedRMSNormHadamardQuantize_workspace(const QuambaGatedRMSNormHadamardQuantize *) {
    return 0;
}

extern "C" int quamba_GatedRMSNormHadamardQuantize_launch(const QuambaGatedRMSNormHadamardQuantize *op,
                                                          void *, cudaStream_t stream) {
    using namespace quamba;
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int64_t tokens = op->size.B * op->size.L, E = op->size.E, count = E / PARTS;
    if (part_a_token(tokens, E, op->hadamard, gpu)) {
        const auto kernel = part_items(count) == 1 ? gated_norm_hadamard_quantize_part<1>
                                                   : gated_norm_hadamard_quantize_part<2>;
        return launch_parts(kernel, *op, tokens, gated_bytes(count, op->n_groups, part_threads(count)), gpu,
                            stream);
    }
    if (takes_whole(E, op->hadamard, op->y)) {
        const int threads = whole_threads(int(E));
        const auto kernel =
            first_radix(hadamard_shape(int(E))) == 16 ? whole_kernel<16>(threads) : whole_kernel<8>(threads);
        const int64_t bytes = gated_bytes(E, op->n_groups, threads);
        // the kernel below needs a little less: E 11520 fits into the 99 KB of sm_86 and sm_89 only there
        if (bytes + TABLE_BYTES + SUM_BYTES <= gpu.shared_bytes) {
            return launch_whole(kernel, *op, tokens, bytes, gpu, stream);
        }
    }
    const int threads = token_threads(E);
    return launch_overlapped(gated_norm_hadamard_quantize, dim3(unsigned(tokens)), threads,
                             size_t(gated_bytes(E, op->n_groups, threads)), 1, gpu, stream, *op);
}
