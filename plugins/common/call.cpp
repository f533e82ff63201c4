#include "call.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>

namespace quamba {
namespace {

using Sizes = std::map<char, int64_t>;

const char *dtype_name(int dtype) {
    static const char *const names[] = {"int8", "int32", "float16", "float32"};
    return names[dtype];
}

std::string allowed_dtypes(unsigned dtypes) {
    std::string text;
    for (int dtype = QUAMBA_INT8; dtype <= QUAMBA_FLOAT32; ++dtype)
        if (dtypes >> dtype & 1u) text += (text.empty() ? "" : " or ") + std::string(dtype_name(dtype));
    return text;
}

std::string shape_text(const std::vector<int64_t> &shape) {
    std::ostringstream text;
    text << "(";
    for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
    return text.str() + ")";
}

std::string size_text(char letter, int64_t size) {
    return std::string(1, letter) + " = " + std::to_string(size);
}

bool is_packed(const Fields &fields, int index) { return fields.row_offsets[index] >= 0; }

void check_form(const QuambaOp &op, const Fields &fields, int index, const Bound &bound) {
    const QuambaTensor &tensor = op.inputs[index];
    const std::string name = std::string("input '") + tensor.name + "'";
    if (bound.dtype < 0 || !(tensor.dtypes >> bound.dtype & 1u))
        throw Refusal(op, name + " has the wrong dtype",
                      bound.dtype < 0 ? "another" : dtype_name(bound.dtype), allowed_dtypes(tensor.dtypes));
    const bool packed = is_packed(fields, index);
    if (packed ? bound.shape.size() != 3 : bound.shape.size() != dims_of(tensor).size())
        throw Refusal(op, name + " has the wrong rank", shape_text(bound.shape),
                      packed ? "(B L W), a wider row" : "(" + std::string(tensor.shape) + ")");
    for (int64_t size : bound.shape)
        if (size < 1) throw Refusal(op, name + " is empty", shape_text(bound.shape), "1 or more");
}

void check_size(const QuambaOp &op, const QuambaTensor &tensor, const Sizes &sizes, Dim dim, int64_t size) {
    const int64_t expected = dim.of(sizes.at(dim.letter));
    if (size == expected) return;
    const std::string what =
        std::string("input '") + tensor.name + "' (" + tensor.shape + ") disagrees with the other inputs";
    if (dim.divisor == 1)
        throw Refusal(op, what, size_text(dim.letter, size - dim.plus),
                      size_text(dim.letter, sizes.at(dim.letter)));
    const std::string part = std::string(1, dim.letter) + "/" + std::to_string(dim.divisor) + " = ";
    throw Refusal(op, what, part + std::to_string(size), part + std::to_string(expected));
}

// Elements from one token's row to the next.
int64_t check_sizes(const QuambaOp &op, const Fields &fields, int index, const Sizes &sizes,
                    const Bound &bound) {
    const QuambaTensor &tensor = op.inputs[index];
    const std::vector<Dim> dims = dims_of(tensor);
    int64_t row = 1;
    for (size_t i = 0; i < dims.size(); ++i) {
        if (!is_packed(fields, index) || i < 2) check_size(op, tensor, sizes, dims[i], bound.shape[i]);
        if (i >= 2) row *= dims[i].of(sizes.at(dims[i].letter));
    }
    if (!is_packed(fields, index)) return row;
    const int64_t end = fields.row_offsets[index] + row;
    if (bound.shape[2] < end)
        throw Refusal(op, std::string("input '") + tensor.name + "' reaches beyond its row",
                      "a row of " + std::to_string(bound.shape[2]), std::to_string(end) + " or more");
    return bound.shape[2];
}

void check_multiples(const QuambaOp &op, std::vector<char> &call, const Sizes &sizes) {
    for (int i = 0; i < op.n_multiples; ++i) {
        const QuambaMultiple &multiple = op.multiples[i];
        int64_t divisor = std::atoi(multiple.part);  // 0 for what is no number
        if (divisor == 0 && std::strlen(multiple.part) == 1) divisor = sizes.at(multiple.part[0]);
        for (int a = 0; a < op.n_attributes; ++a)
            if (!std::strcmp(op.attributes[a].name, multiple.part))
                divisor = member<int32_t>(call, op.attributes[a].offset);
        if (sizes.at(multiple.letter) % divisor != 0)
            throw Refusal(op, std::string(1, multiple.letter) + " does not divide by " + multiple.part,
                          size_text(multiple.letter, sizes.at(multiple.letter)),
                          "a multiple of " + std::to_string(divisor));
    }
}

}  // namespace

Refusal::Refusal(const QuambaOp &op, const std::string &what, const std::string &found,
                 const std::string &allowed)
    : std::runtime_error(std::string(op.name) + ": " + what + ": found " + found + ", allowed " + allowed +
                         " (plugins/" + op.name + "/README.md)") {}

std::vector<Dim> dims_of(const QuambaTensor &tensor) {
    std::istringstream words(tensor.shape);
    std::vector<Dim> dims;
    for (std::string word; words >> word;) {
        const int number = word.size() > 2 ? std::stoi(word.substr(word[1] == '/' ? 2 : 1)) : 0;
        dims.push_back(word[1] == '/' ? Dim{word[0], 0, number} : Dim{word[0], number, 1});
    }
    return dims;
}

Source source_of(const QuambaOp &op, const Fields &fields, char letter) {
    for (int i = 0; i < op.n_sizes; ++i)
        if (op.sizes[i].letter == letter && fields.sizes[i] > 0) return {-1, 0, 0, fields.sizes[i]};
    for (int i = 0; i < op.n_inputs; ++i) {
        const std::vector<Dim> dims = dims_of(op.inputs[i]);
        const size_t readable = is_packed(fields, i) ? 2 : dims.size();  // a wider row tells B and L only
        for (size_t d = 0; d < readable; ++d)
            if (dims[d].letter == letter && dims[d].divisor == 1)
                return {i, static_cast<int>(d), dims[d].plus, 0};
    }
    throw Refusal(op, std::string("the size ") + letter + " cannot be read from inputs in wider rows",
                  "0 in field 'sizes'", "its size");
}

std::vector<char> make_call(const QuambaOp &op, const Fields &fields, const std::vector<Bound> &inputs) {
    if (inputs.size() != static_cast<size_t>(op.n_inputs))
        throw Refusal(op, "wrong number of inputs", std::to_string(inputs.size()),
                      std::to_string(op.n_inputs));
    for (int i = 0; i < op.n_inputs; ++i) check_form(op, fields, i, inputs[i]);
    std::vector<char> call = fields.call;
    Sizes sizes;
    for (int i = 0; i < op.n_sizes; ++i) {
        const Source source = source_of(op, fields, op.sizes[i].letter);
        const int64_t size =
            source.input < 0 ? source.constant : inputs[source.input].shape[source.dim] - source.plus;
        sizes[op.sizes[i].letter] = member<int64_t>(call, op.sizes[i].offset) = size;
    }
    for (int i = 0; i < op.n_inputs; ++i) {
        const int64_t stride = check_sizes(op, fields, i, sizes, inputs[i]);
        if (is_row(op.inputs[i])) member<int64_t>(call, op.inputs[i].stride) = stride;
        if (op.inputs[i].dtype != 0) member<int32_t>(call, op.inputs[i].dtype) = inputs[i].dtype;
    }
    check_multiples(op, call, sizes);
    if (const char *reason = op.refusal(call.data()))
        throw Refusal(op, "no kernel takes these sizes", reason, "other sizes");
    return call;
}

size_t byte_offset(const Fields &fields, int index, int dtype) {
    static const size_t bytes[] = {1, 4, 2, 4};
    return is_packed(fields, index) ? fields.row_offsets[index] * bytes[dtype] : 0;
}

}  // namespace quamba
