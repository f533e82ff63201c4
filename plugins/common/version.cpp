// The contracts that the library was compiled from, which those of a graph must be; its CUDA, and this machine's.
#include <cuda_runtime_api.h>

#include "contracts.h"

#define SEEN extern "C" __attribute__((visibility("default")))

SEEN const char *quamba_plugins_version() { return QUAMBA_CONTRACTS; }

// 13000 for CUDA 13.0.
SEEN int quamba_plugins_cuda() { return CUDART_VERSION; }

// Of the driver here, in the same form; 0 where there is none.
SEEN int quamba_plugins_driver() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}
