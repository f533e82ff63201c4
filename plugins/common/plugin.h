// The one TensorRT plugin class, IPluginV3 of TensorRT 10.3: what an op is comes from its table in
// contracts.h.
#pragma once
#include <NvInfer.h>

#include "call.h"

namespace quamba {

constexpr const char *NAMESPACE = "quamba";
constexpr const char *VERSION = "1";

// Through the logger of the calling engine, else to stderr.
void log_error(const std::string &text) noexcept;

// Raises Refusal where a field is missing, unknown, of the wrong type or length, or out of range.
Fields parse_fields(const QuambaOp &op, const nvinfer1::PluginFieldCollection &given);

// The same fields for serialization; they point into `fields`.
std::vector<nvinfer1::PluginField> list_fields(const QuambaOp &op, const Fields &fields);

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuildV2,
                     public nvinfer1::IPluginV3OneRuntime {
public:
    Plugin(const QuambaOp &op, Fields fields) : op_(op), fields_(std::move(fields)) {}

    nvinfer1::IPluginCapability *getCapabilityInterface(
        nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3 *clone() noexcept override;

    nvinfer1::AsciiChar const *getPluginName() const noexcept override { return op_.name; }
    nvinfer1::AsciiChar const *getPluginVersion() const noexcept override { return VERSION; }
    nvinfer1::AsciiChar const *getPluginNamespace() const noexcept override { return NAMESPACE; }

    int32_t getNbOutputs() const noexcept override { return op_.n_outputs; }
    int32_t getAliasedInput(int32_t output) noexcept override { return op_.outputs[output].alias; }
    int32_t getOutputDataTypes(nvinfer1::DataType *outputs, int32_t n_outputs,
                               nvinfer1::DataType const *inputs, int32_t n_inputs) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const *inputs, int32_t n_inputs, nvinfer1::DimsExprs const *,
                            int32_t, nvinfer1::DimsExprs *outputs, int32_t n_outputs,
                            nvinfer1::IExprBuilder &builder) noexcept override;
    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const *tensors,
                                   int32_t n_inputs, int32_t n_outputs) noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const *inputs, int32_t n_inputs,
                            nvinfer1::DynamicPluginTensorDesc const *, int32_t) noexcept override;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const *inputs, int32_t n_inputs,
                            nvinfer1::DynamicPluginTensorDesc const *, int32_t) const noexcept override;

    int32_t onShapeChange(nvinfer1::PluginTensorDesc const *inputs, int32_t n_inputs,
                          nvinfer1::PluginTensorDesc const *, int32_t) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const *, nvinfer1::PluginTensorDesc const *,
                    void const *const *inputs, void *const *outputs, void *workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *) noexcept override {
        return clone();
    }
    nvinfer1::PluginFieldCollection const *getFieldsToSerialize() noexcept override;

private:
    const QuambaOp &op_;
    Fields fields_;
    std::vector<char> call_;   // for the shapes of the last onShapeChange
    std::vector<int> dtypes_;  // of its inputs
    std::vector<nvinfer1::PluginField> serialized_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace quamba
