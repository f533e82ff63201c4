// One fault for each tool of compute-sanitizer, in the project's own norm kernel: `planted_faults memcheck` and so on.
// A tool that reports nothing here proves nothing elsewhere; ci/gpu-sanitize asks each.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#ifdef PLANT_RACE
#define __syncthreads() ((void)0)  // the sums of the warps are read before they are written
#endif
#ifdef PLANT_DIVERGENCE
__device__ inline void divergent_barrier() {
    if (threadIdx.x % 2 == 0) __syncthreads();
}
#define __syncthreads() divergent_barrier()
#endif
#include "../../plugins/RMSNormQuantize/kernel.cuh"

int main(int, char **arguments) {
    const char *tool = arguments[1];
    const int D = 512;
    float *x = nullptr;
    int8_t *y = nullptr;
    cudaMalloc(&x, D * sizeof(float));
    cudaMalloc(&y, D);
    if (strcmp(tool, "initcheck") != 0) cudaMemset(x, 0, D * sizeof(float));
    QuambaRMSNormQuantize call = {};
    call.size.B = call.size.L = 1;
    call.size.D = strcmp(tool, "memcheck") == 0 ? 2 * D : D;  // twice what there is
    call.epsilon = call.out_scale = 1.0f;
    call.x = x;
    call.y = y;
    call.x_stride = D;
    quamba::rms_norm<quamba::NormedCode><<<1, quamba::NORM_THREADS>>>(call);
    printf("%s: %s\n", tool, cudaGetErrorString(cudaDeviceSynchronize()));
    return 0;
}
