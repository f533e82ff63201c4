// What a launcher needs to know of the GPU, and a launch that overlaps the kernel before it.
#pragma once

#include <cuda_runtime.h>

namespace quamba {

struct Gpu {
    int multiprocessors, shared_bytes;  // shared_bytes: the most that one block may have
    bool clusters, overlap;             // both sm_90: thread block clusters, programmatic dependent launch
};

inline cudaError_t current_gpu(Gpu &gpu) {
    int device = 0, major = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess) {
        error = cudaDeviceGetAttribute(&gpu.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    }
    if (error == cudaSuccess) {
        error = cudaDeviceGetAttribute(&gpu.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    gpu.clusters = gpu.overlap = major >= 9;
#ifdef QUAMBA_NO_OVERLAP
    gpu.overlap = false;
#endif
    return error;
}

// NULL, or in words that this GPU gives a block less shared memory. Where there is no GPU, the launch tells.
inline const char *shared_memory_refusal(int64_t bytes) {
    Gpu gpu = {};
    if (current_gpu(gpu) != cudaSuccess || bytes <= gpu.shared_bytes) return nullptr;
    return "a token of that many channels does not fit into the shared memory of this GPU";
}

// Launches a kernel whose blocks all call wait_for_inputs(): where the GPU can, it begins while the one
// before it ends. cluster: blocks along x that form a cluster.
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapped(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                              int cluster, const Gpu &gpu, cudaStream_t stream, Arguments... arguments) {
    cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    // the same split of shared memory and L1 for all: a multiprocessor changes it only once no block is on it
    if (error == cudaSuccess) {
        error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                     cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    }
    if (error != cudaSuccess) return error;
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (gpu.overlap) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs++].val.clusterDim = {unsigned(cluster), 1, 1};
    }
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace quamba
