// A launcher on the host: what it asks of CUDA's runtime. A launch runs the grid, block after block, in every other one
// with the last warp first.
#pragma once

#include "host_gpu.h"

namespace quamba {
constexpr size_t SHARED_BYTES = 227 << 10;
extern __shared__ float4 bytes[SHARED_BYTES / sizeof(float4)];  // shared memory that is asked for at a launch
extern __shared__ double entries[SHARED_BYTES / sizeof(double)];
extern __shared__ unsigned char raw[SHARED_BYTES];
}  // namespace quamba

typedef struct CUstream_st *cudaStream_t;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719;

// An H200, or what a test makes of it.
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin
};
extern "C" int host_gpu_attributes[3];
inline cudaError_t cudaGetDevice(int *device) { return *device = 0; }
inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    *value = host_gpu_attributes[attribute];
    return cudaSuccess;
}

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize,
    cudaFuncAttributePreferredSharedMemoryCarveout
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;
inline cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute attribute, int value) {
    const bool too_many = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
                          value > host_gpu_attributes[cudaDevAttrMaxSharedMemoryPerBlockOptin];
    return too_many ? cudaErrorInvalidValue : cudaSuccess;
}

enum cudaLaunchAttributeID {
    cudaLaunchAttributeProgrammaticStreamSerialization,
    cudaLaunchAttributeClusterDimension
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        int programmaticStreamSerializationAllowed;
        struct {
            unsigned x, y, z;
        } clusterDim;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

// The limits that a launch meets; then as cudaLaunchKernelEx.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
    const dim3 grid = config->gridDim;
    const unsigned threads = config->blockDim.x;
    if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidValue;
    if (!threads || threads > 1024 || config->dynamicSmemBytes > quamba::SHARED_BYTES) return cudaErrorInvalidValue;
    gridDim = grid;
    bool backwards = false;
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                memset(quamba::bytes, 0xff, config->dynamicSmemBytes);  // NaN
                memset(quamba::entries, 0xff, config->dynamicSmemBytes);
                memset(quamba::raw, 0xff, config->dynamicSmemBytes);
                if (!host_gpu::run(threads, backwards, [&] { kernel(arguments...); })) return cudaErrorLaunchFailure;
                backwards = !backwards;
            }
        }
    }
    return cudaSuccess;
}
