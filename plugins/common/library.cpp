// What TensorRT asks the library for: the creators of every op, and where errors are logged.
#include <cstdio>
#include <memory>

#include "plugin.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace quamba {
namespace {

using namespace nvinfer1;

ILoggerFinder *logger_finder = nullptr;

class Creator final : public IPluginCreatorV3One {
public:
    explicit Creator(const QuambaOp &op)
        : op_(op),
          empty_{std::vector<char>(op.struct_bytes), std::vector<int32_t>(op.n_inputs, -1),
                 std::vector<int32_t>(op.n_sizes)},
          fields_(list_fields(op_, empty_)) {
        for (PluginField &field : fields_) field.data = nullptr;
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    AsciiChar const *getPluginName() const noexcept override { return op_.name; }
    AsciiChar const *getPluginVersion() const noexcept override { return VERSION; }
    AsciiChar const *getPluginNamespace() const noexcept override { return NAMESPACE; }
    PluginFieldCollection const *getFieldNames() noexcept override { return &collection_; }

    IPluginV3 *createPlugin(AsciiChar const *name, PluginFieldCollection const *given,
                            TensorRTPhase) noexcept override {
        try {
            return new Plugin(op_, parse_fields(op_, *given));
        } catch (const std::exception &error) {
            log_error(std::string(name) + ": " + error.what());
            return nullptr;
        }
    }

private:
    const QuambaOp &op_;
    Fields empty_;
    std::vector<PluginField> fields_;
    PluginFieldCollection collection_;
};

}  // namespace

void log_error(const std::string &text) noexcept {
    ILogger *logger = logger_finder != nullptr ? logger_finder->findLogger() : nullptr;
    if (logger != nullptr)
        logger->log(ILogger::Severity::kERROR, text.c_str());
    else
        std::fprintf(stderr, "%s\n", text.c_str());
}

}  // namespace quamba

EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder *finder) { quamba::logger_finder = finder; }

EXPORTED nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
    static const auto creators = [] {  // never freed: a registry may ask for them until the process ends
        auto *list = new std::vector<nvinfer1::IPluginCreatorInterface *>;
        for (const QuambaOp *op : quamba_ops) list->push_back(new quamba::Creator(*op));
        return list;
    }();
    count = static_cast<int32_t>(creators->size());
    return creators->data();
}
