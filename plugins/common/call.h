// From tensors and plugin fields to the struct of one launcher call. Knows no TensorRT.
#pragma once
#include <stdexcept>
#include <string>
#include <vector>

#include "contracts.h"

namespace quamba {

// A call or a field that the contract does not allow; the text names the op, what was found and what is
// allowed.
class Refusal : public std::runtime_error {
public:
    Refusal(const QuambaOp &op, const std::string &what, const std::string &found,
            const std::string &allowed);
};

// One dimension of a contract's shape: "W-1" is {'W', -1, 1}, "K/2" is {'K', 0, 2}.
struct Dim {
    char letter;
    int plus;
    int divisor;  // the quotient is rounded up

    int64_t of(int64_t size) const { return (size + plus + divisor - 1) / divisor; }
};

std::vector<Dim> dims_of(const QuambaTensor &tensor);

// Whether the shape begins "B L": one row a token, which may be part of a wider row.
inline bool is_row(const QuambaTensor &tensor) { return tensor.stride != 0; }

// What one plugin was created with.
struct Fields {
    std::vector<char> call;  // the launcher's struct with its attributes set, the rest zero
    std::vector<int32_t>
        row_offsets;  // one an input; -1: a tensor of its own, else its first element in a wider row
    std::vector<int32_t> sizes;  // one a letter; 0: from the shapes
};

struct Bound {
    int dtype;  // QUAMBA_*
    std::vector<int64_t> shape;
};

// Where the size of a letter is read: a constant (input < 0), or dimension `dim` of an input, less `plus`.
struct Source {
    int input;
    int dim;
    int plus;
    int64_t constant;
};

// Raises Refusal where no field and no input of its own has the letter.
Source source_of(const QuambaOp &op, const Fields &fields, char letter);

// The struct of one call but for its pointers. Raises Refusal where dtypes, ranks or sizes break the
// contract, and where the kernels do not support the sizes.
std::vector<char> make_call(const QuambaOp &op, const Fields &fields, const std::vector<Bound> &inputs);

// Bytes from the pointer TensorRT gives for input `index` to its first element.
size_t byte_offset(const Fields &fields, int index, int dtype);

template <typename T>
T &member(std::vector<char> &call, size_t offset) {
    return *reinterpret_cast<T *>(call.data() + offset);
}

}  // namespace quamba
