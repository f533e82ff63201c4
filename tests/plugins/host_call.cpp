// plugins/common/call.cpp behind a C function: bind the shapes of one call, with no TensorRT and no GPU.
#include "../../plugins/common/call.h"

#include <cstring>

// Fills `call` (struct_bytes) and returns 0, or writes the refusal into `error` (1000 bytes) and returns 1.
extern "C" int bind_call(int op_index, const int32_t *row_offsets, const int32_t *sizes, const int *dtypes,
                         const int *ranks, const int64_t *shapes, const char *attributes, char *call,
                         char *error) {
    const QuambaOp &op = *quamba_ops[op_index];
    const quamba::Fields fields{{attributes, attributes + op.struct_bytes},
                                {row_offsets, row_offsets + op.n_inputs},
                                {sizes, sizes + op.n_sizes}};
    std::vector<quamba::Bound> inputs;
    for (int i = 0; i < op.n_inputs; shapes += ranks[i++])
        inputs.push_back({dtypes[i], {shapes, shapes + ranks[i]}});
    try {
        const std::vector<char> made = quamba::make_call(op, fields, inputs);
        std::memcpy(call, made.data(), made.size());
        return 0;
    } catch (const quamba::Refusal &refusal) {
        std::strncpy(error, refusal.what(), 999);
        return 1;
    }
}
