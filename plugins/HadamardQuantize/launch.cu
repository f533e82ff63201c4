// C ABI of HadamardQuantize; the struct is made from op.py.
#include "../common/hadamard_launch.cuh"
#include "kernel.cuh"

extern "C" const char *quamba_HadamardQuantize_refusal(const QuambaHadamardQuantize *op) {
    if (op->size.E > 16384) return "E, the channels of a token, must be at most 16384";
    return quamba::shared_memory_refusal(quamba::entries_bytes(op->size.E));
}

extern "C" size_t quamba_HadamardQuantize_workspace(const QuambaHadamardQuantize *) { return 0; }

extern "C" int quamba_HadamardQuantize_launch(const QuambaHadamardQuantize *op, void *, cudaStream_t stream) {
    using namespace quamba;
    Gpu gpu = {};
    const cudaError_t error = current_gpu(gpu);
    if (error != cudaSuccess) return error;
    const int64_t tokens = op->size.B * op->size.L, E = op->size.E;
    if (part_a_token(tokens, E, op->hadamard, gpu)) {
        const auto kernel =
            part_items(E / PARTS) == 1 ? hadamard_quantize_part<1> : hadamard_quantize_part<2>;
        return launch_parts(kernel, *op, tokens, entries_bytes(E / PARTS), gpu, stream);
    }
    if (takes_whole(E, op->hadamard, op->y)) {
        const auto kernel = first_radix(hadamard_shape(int(E))) == 16 ? hadamard_quantize_whole<16>
                                                                      : hadamard_quantize_whole<8>;
        return launch_whole(kernel, *op, tokens, entries_bytes(E), gpu, stream);
    }
    return launch_overlapped(hadamard_quantize, dim3(unsigned(tokens)), token_threads(E),
                             size_t(entries_bytes(E)), 1, gpu, stream, *op);
}
