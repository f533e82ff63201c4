#include "plugin.h"

#include <algorithm>

namespace quamba {
namespace {

using namespace nvinfer1;

constexpr DataType TYPES[] = {DataType::kINT8, DataType::kINT32, DataType::kHALF,
                              DataType::kFLOAT};  // by QUAMBA_*

int dtype_of(DataType type) {
    for (int dtype = QUAMBA_INT8; dtype <= QUAMBA_FLOAT32; ++dtype)
        if (TYPES[dtype] == type) return dtype;
    return -1;
}

Bound bound(DataType type, const Dims &dims) {
    return {dtype_of(type), std::vector<int64_t>(dims.d, dims.d + std::max(dims.nbDims, 0))};
}

// For the largest sizes of the profile.
std::vector<char> make_call(const QuambaOp &op, const Fields &fields, const DynamicPluginTensorDesc *inputs,
                            int n) {
    std::vector<Bound> bounds;
    for (int i = 0; i < n; ++i) bounds.push_back(bound(inputs[i].desc.type, inputs[i].max));
    return quamba::make_call(op, fields, bounds);
}

// TensorRT takes no exceptions: says what went wrong and returns `failed`.
template <typename Result, typename Body>
Result guarded(Result failed, Body body) noexcept {
    try {
        return body();
    } catch (const std::exception &error) {
        log_error(error.what());
        return failed;
    }
}

const IDimensionExpr *plus(const IDimensionExpr *size, int value, IExprBuilder &builder) {
    if (value == 0) return size;
    return builder.operation(DimensionOperation::kSUM, *size, *builder.constant(value));
}

}  // namespace

IPluginCapability *Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore *>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuildV2 *>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime *>(this);
    }
    return nullptr;
}

IPluginV3 *Plugin::clone() noexcept {
    return guarded<IPluginV3 *>(nullptr, [&] {
        auto *copy = new Plugin(op_, fields_);
        copy->call_ = call_;
        copy->dtypes_ = dtypes_;
        return copy;
    });
}

int32_t Plugin::getOutputDataTypes(DataType *outputs, int32_t n_outputs, DataType const *inputs,
                                   int32_t) const noexcept {
    for (int i = 0; i < n_outputs; ++i) {
        const QuambaTensor &tensor = op_.outputs[i];
        int dtype = QUAMBA_INT8;
        while (!(tensor.dtypes >> dtype & 1u)) ++dtype;
        outputs[i] = tensor.alias >= 0 ? inputs[tensor.alias] : TYPES[dtype];
    }
    return 0;
}

int32_t Plugin::getOutputShapes(DimsExprs const *inputs, int32_t n_inputs, DimsExprs const *, int32_t,
                                DimsExprs *outputs, int32_t n_outputs, IExprBuilder &builder) noexcept {
    return guarded(-1, [&] {
        if (n_inputs != op_.n_inputs)
            throw Refusal(op_, "wrong number of inputs", std::to_string(n_inputs),
                          std::to_string(op_.n_inputs));
        for (int i = 0; i < n_outputs; ++i) {
            const std::vector<Dim> dims = dims_of(op_.outputs[i]);
            outputs[i].nbDims = static_cast<int32_t>(dims.size());
            for (size_t d = 0; d < dims.size(); ++d) {
                const Source source = source_of(op_, fields_, dims[d].letter);
                if (source.input >= 0 && source.dim >= inputs[source.input].nbDims)
                    throw Refusal(
                        op_, std::string("input '") + op_.inputs[source.input].name + "' has the wrong rank",
                        std::to_string(inputs[source.input].nbDims),
                        "(" + std::string(op_.inputs[source.input].shape) + ")");
                const IDimensionExpr *size =
                    source.input < 0 ? builder.constant(source.constant) : inputs[source.input].d[source.dim];
                outputs[i].d[d] = plus(size, dims[d].plus - source.plus, builder);
            }
        }
        return 0;
    });
}

bool Plugin::supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const *tensors,
                                       int32_t n_inputs, int32_t) noexcept {
    const PluginTensorDesc &found = tensors[position].desc;
    const QuambaTensor &tensor =
        position < n_inputs ? op_.inputs[position] : op_.outputs[position - n_inputs];
    const int dtype = dtype_of(found.type);
    if (found.format != TensorFormat::kLINEAR || dtype < 0 || !(tensor.dtypes >> dtype & 1u)) return false;
    return tensor.alias < 0 || found.type == tensors[tensor.alias].desc.type;
}

int32_t Plugin::configurePlugin(DynamicPluginTensorDesc const *inputs, int32_t n_inputs,
                                DynamicPluginTensorDesc const *, int32_t) noexcept {
    return guarded(-1, [&] {
        make_call(op_, fields_, inputs, n_inputs);
        return 0;
    });
}

size_t Plugin::getWorkspaceSize(DynamicPluginTensorDesc const *inputs, int32_t n_inputs,
                                DynamicPluginTensorDesc const *, int32_t) const noexcept {
    return guarded(size_t{0}, [&] {
        const std::vector<char> call = make_call(op_, fields_, inputs, n_inputs);
        return op_.workspace(call.data());
    });
}

int32_t Plugin::onShapeChange(PluginTensorDesc const *inputs, int32_t n_inputs, PluginTensorDesc const *,
                              int32_t) noexcept {
    return guarded(-1, [&] {
        std::vector<Bound> bounds;
        dtypes_.clear();
        for (int i = 0; i < n_inputs; ++i) {
            bounds.push_back(bound(inputs[i].type, inputs[i].dims));
            dtypes_.push_back(bounds.back().dtype);
        }
        call_ = quamba::make_call(op_, fields_, bounds);
        return 0;
    });
}

int32_t Plugin::enqueue(PluginTensorDesc const *, PluginTensorDesc const *, void const *const *inputs,
                        void *const *outputs, void *workspace, cudaStream_t stream) noexcept {
    return guarded(-1, [&] {
        if (call_.empty())
            throw std::runtime_error(std::string(op_.name) + ": enqueued before its shapes were set");
        for (int i = 0; i < op_.n_inputs; ++i)
            member<const char *>(call_, op_.inputs[i].pointer) =
                static_cast<const char *>(inputs[i]) + byte_offset(fields_, i, dtypes_[i]);
        for (int i = 0; i < op_.n_outputs; ++i) member<void *>(call_, op_.outputs[i].pointer) = outputs[i];
        const int error = op_.launch(call_.data(), workspace, stream);
        if (error != 0)
            throw std::runtime_error(std::string(op_.name) + ": CUDA error " + std::to_string(error) +
                                     " at launch");
        return 0;
    });
}

PluginFieldCollection const *Plugin::getFieldsToSerialize() noexcept {
    return guarded<PluginFieldCollection const *>(nullptr, [&] {
        serialized_ = list_fields(op_, fields_);
        collection_ = {static_cast<int32_t>(serialized_.size()), serialized_.data()};
        return &collection_;
    });
}

}  // namespace quamba
