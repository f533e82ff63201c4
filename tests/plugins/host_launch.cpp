// The GPU, and the shared memory of the one block that runs.
#define QUAMBA_HOST_DEVICE inline
#include "host_launch.h"

namespace quamba {
alignas(16) __shared__ float4 bytes[SHARED_BYTES / sizeof(float4)];
alignas(16) __shared__ double entries[SHARED_BYTES / sizeof(double)];
alignas(16) __shared__ unsigned char raw[SHARED_BYTES];
}  // namespace quamba

int host_gpu_attributes[3] = {9, 132, quamba::SHARED_BYTES};
