// A process with TensorRT's plugin registry (the lean runtime's, which needs no GPU), for any machine.
//
//   registry_process libnvinfer_lean.so.10 libquamba_plugins.so < requests > answers 2> errors
//
// A request is words: the op, the number of fields, then of each its name, its type, the number of its values and
// those. Answers are lines: "contracts DIGEST", then "creator NAME VERSION" and "field NAME TYPE" of what the
// library brought, then of each request "created" or "refused". After each request stderr has a byte 30, in front
// of it what the library said. Ends without teardown, which needs a driver.
#include <NvInfer.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <list>
#include <map>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

const std::map<std::string, PluginFieldType> TYPES = {{"FLOAT32", PluginFieldType::kFLOAT32},
                                                      {"FLOAT64", PluginFieldType::kFLOAT64},
                                                      {"INT32", PluginFieldType::kINT32},
                                                      {"INT64", PluginFieldType::kINT64}};

void *symbol(const char *library, const char *name) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    void *found = handle ? dlsym(handle, name) : nullptr;
    if (!found) {
        std::cerr << dlerror() << "\n";
        std::_Exit(1);
    }
    return found;
}

std::string type_name(PluginFieldType type) {
    for (const auto &[name, known] : TYPES)
        if (known == type) return name;
    return std::to_string(static_cast<int>(type));
}

template <class T>
void append(std::vector<char> &bytes, T value) {
    bytes.resize(bytes.size() + sizeof(T));
    std::memcpy(bytes.data() + bytes.size() - sizeof(T), &value, sizeof(T));
}

std::vector<char> read_values(PluginFieldType type, int count) {
    std::vector<char> bytes;
    for (std::string word; count > 0 && std::cin >> word; --count) {
        const double value = std::strtod(word.c_str(), nullptr);  // also "nan" and "inf"
        if (type == PluginFieldType::kFLOAT32) append(bytes, static_cast<float>(value));
        if (type == PluginFieldType::kFLOAT64) append(bytes, value);
        if (type == PluginFieldType::kINT32) append(bytes, static_cast<int32_t>(value));
        if (type == PluginFieldType::kINT64) append(bytes, static_cast<int64_t>(value));
    }
    return bytes;
}

void list_creators(IPluginRegistry &registry) {
    int32_t count = 0;
    IPluginCreatorInterface *const *creators = registry.getAllCreators(&count);
    for (int32_t i = 0; i < count; ++i) {
        auto *creator = dynamic_cast<IPluginCreatorV3One *>(creators[i]);
        if (!creator || std::string(creator->getPluginNamespace()) != "quamba") continue;
        std::cout << "creator " << creator->getPluginName() << " " << creator->getPluginVersion() << "\n";
        const PluginFieldCollection *fields = creator->getFieldNames();
        for (int32_t k = 0; k < fields->nbFields; ++k)
            std::cout << "field " << fields->fields[k].name << " " << type_name(fields->fields[k].type)
                      << "\n";
    }
}

void create(IPluginRegistry &registry, const std::string &op) {
    int count = 0;
    std::cin >> count;
    std::list<std::string> names;
    std::list<std::vector<char>> values;
    std::vector<PluginField> fields;
    for (int i = 0; i < count; ++i) {
        std::string name, kind;
        int length = 0;
        std::cin >> name >> kind >> length;
        const PluginFieldType type = TYPES.at(kind);
        names.push_back(name);
        values.push_back(read_values(type, length));
        fields.emplace_back(names.back().c_str(), values.back().data(), type, length);
    }
    const PluginFieldCollection given{count, fields.data()};
    auto *creator = dynamic_cast<IPluginCreatorV3One *>(registry.getCreator(op.c_str(), "1", "quamba"));
    const bool created = creator && creator->createPlugin("node", &given, TensorRTPhase::kBUILD);
    std::cout << (created ? "created" : "refused") << "\n";
    std::cerr << '\x1e';
}

}  // namespace

int main(int, char **arguments) {
    auto *registry_of = reinterpret_cast<IPluginRegistry *(*)()>(symbol(arguments[1], "getPluginRegistry"));
    IPluginRegistry &registry = *registry_of();
    if (!registry.loadLibrary(arguments[2])) return 2;
    auto *contracts = reinterpret_cast<const char *(*)()>(symbol(arguments[2], "quamba_plugins_version"));
    std::cout << "contracts " << contracts() << "\n";
    list_creators(registry);
    for (std::string op; std::cin >> op;) create(registry, op);
    std::cout.flush();
    std::_Exit(0);
}
