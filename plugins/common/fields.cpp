// Plugin fields: the op's attributes, `row_offsets` and `sizes`.
#include <cmath>
#include <cstring>
#include <sstream>

#include "plugin.h"

namespace quamba {
namespace {

using namespace nvinfer1;

constexpr const char *ROW_OFFSETS = "row_offsets", *SIZES = "sizes";

template <typename T>
std::string text(T value) {
    std::ostringstream out;
    out << value;
    return out.str();
}

bool is_int(const PluginField &field) {
    return field.type == PluginFieldType::kINT32 || field.type == PluginFieldType::kINT64;
}

int64_t int_at(const PluginField &field, int index) {
    return field.type == PluginFieldType::kINT64 ? static_cast<const int64_t *>(field.data)[index]
                                                 : static_cast<const int32_t *>(field.data)[index];
}

std::string allowed_values(const QuambaAttribute &attribute) {
    if (attribute.lowest < 0) return "finite in fp32";
    return attribute.lowest == 0 ? "0 or 1" : "finite and above 0 in fp32";
}

void set_attribute(const QuambaOp &op, Fields &fields, const QuambaAttribute &attribute,
                   const PluginField &field) {
    const std::string what = std::string("attribute '") + attribute.name + "'";
    if (attribute.is_float ? field.type != PluginFieldType::kFLOAT32 : !is_int(field))
        throw Refusal(op, what + " has the wrong type", "field type " + text(static_cast<int>(field.type)),
                      attribute.is_float ? "a float32" : "an int32");
    if (field.length != 1 || field.data == nullptr)
        throw Refusal(op, what + " has the wrong length", text(field.length), "1");
    const double value = attribute.is_float ? *static_cast<const float *>(field.data) : int_at(field, 0);
    if (!(attribute.lowest <= value && value <= attribute.highest) ||
        (!attribute.is_float && value > INT32_MAX))
        throw Refusal(op, what + " is out of range", text(value), allowed_values(attribute));
    if (attribute.is_float)
        member<float>(fields.call, attribute.offset) = static_cast<float>(value);
    else
        member<int32_t>(fields.call, attribute.offset) = static_cast<int32_t>(value);
}

std::vector<int32_t> int_list(const QuambaOp &op, const PluginField &field, int length, int lowest) {
    const std::string what = std::string("field '") + field.name + "'";
    if (!is_int(field))
        throw Refusal(op, what + " has the wrong type", text(static_cast<int>(field.type)), "int32");
    if (field.length != length || field.data == nullptr)
        throw Refusal(op, what + " has the wrong length", text(field.length), text(length));
    std::vector<int32_t> values;
    for (int i = 0; i < length; ++i) {
        const int64_t value = int_at(field, i);
        if (value < lowest || value > INT32_MAX)
            throw Refusal(op, what + " is out of range", text(value), text(lowest) + " or more");
        values.push_back(static_cast<int32_t>(value));
    }
    return values;
}

// Whether the field was one of the op's.
bool set_field(const QuambaOp &op, Fields &fields, const PluginField &field, std::vector<bool> &seen) {
    for (int i = 0; i < op.n_attributes; ++i) {
        if (std::strcmp(op.attributes[i].name, field.name)) continue;
        if (seen[i]) throw Refusal(op, "wrong attributes", std::string(field.name) + " twice", "each once");
        seen[i] = true;
        set_attribute(op, fields, op.attributes[i], field);
        return true;
    }
    if (!std::strcmp(field.name, ROW_OFFSETS)) {
        fields.row_offsets = int_list(op, field, op.n_inputs, -1);
    } else if (!std::strcmp(field.name, SIZES)) {
        fields.sizes = int_list(op, field, op.n_sizes, 0);
    } else {
        return false;
    }
    return true;
}

}  // namespace

Fields parse_fields(const QuambaOp &op, const PluginFieldCollection &given) {
    Fields fields{std::vector<char>(op.struct_bytes), std::vector<int32_t>(op.n_inputs, -1),
                  std::vector<int32_t>(op.n_sizes)};
    std::vector<bool> seen(op.n_attributes);
    for (int i = 0; i < given.nbFields; ++i) {
        if (!set_field(op, fields, given.fields[i], seen)) {
            std::string names = std::string(ROW_OFFSETS) + ", " + SIZES;
            for (int a = 0; a < op.n_attributes; ++a) names += std::string(", ") + op.attributes[a].name;
            throw Refusal(op, "unknown field", given.fields[i].name, names);
        }
    }
    for (int i = 0; i < op.n_attributes; ++i)
        if (!seen[i])
            throw Refusal(op, "missing attribute", "none", std::string("'") + op.attributes[i].name + "'");
    for (int i = 0; i < op.n_inputs; ++i)
        if (fields.row_offsets[i] >= 0 && !is_row(op.inputs[i]))
            throw Refusal(
                op, std::string("field 'row_offsets' gives input '") + op.inputs[i].name + "' a row",
                text(fields.row_offsets[i]), "-1, as its shape is (" + std::string(op.inputs[i].shape) + ")");
    return fields;
}

std::vector<PluginField> list_fields(const QuambaOp &op, const Fields &fields) {
    std::vector<PluginField> list;
    for (int i = 0; i < op.n_attributes; ++i) {
        const QuambaAttribute &attribute = op.attributes[i];
        list.emplace_back(attribute.name, fields.call.data() + attribute.offset,
                          attribute.is_float ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32, 1);
    }
    list.emplace_back(ROW_OFFSETS, fields.row_offsets.data(), PluginFieldType::kINT32, op.n_inputs);
    list.emplace_back(SIZES, fields.sizes.data(), PluginFieldType::kINT32, op.n_sizes);
    return list;
}

}  // namespace quamba
