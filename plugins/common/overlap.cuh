// What a kernel says to overlap with the kernels before and behind it.
#pragma once
#ifdef QUAMBA_TRACE
namespace quamba { __device__ unsigned long long trace_times[4 * 1024 * 6];
__device__ __forceinline__ void trace(int kernel, int i) {
    if (threadIdx.x) return;
    unsigned long long t; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    const int block = blockIdx.x + gridDim.x * blockIdx.y;
    if (block < 1024) trace_times[(kernel * 1024 + block) * 6 + i] = t;
} }
#define TRACE(k, i) trace(k, i);
#else
#define TRACE(k, i)
#endif

namespace quamba {

#ifdef __CUDACC__

// Programmatic dependent launch (sm_90): a kernel may begin while the one before it ends. Nothing that an
// earlier kernel writes may be read, and nothing at all written, before wait_for_inputs().
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Near the end of a kernel that is long: blocks that come early are put where there is room, not evenly. A
// short one says it before its own wait_for_inputs(): what the next one does before its wait is hidden.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether what a kernel does before wait_for_inputs() may be hidden behind the kernel before it.
__device__ constexpr bool kernels_overlap() {
#if __CUDA_ARCH__ >= 900
    return true;
#else
    return false;
#endif
}

// A hint, which may be given before wait_for_inputs() for what an earlier kernel writes: nothing is read.
__device__ __forceinline__ void prefetch_into_L2(const void *address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// `address` in global memory, found here: the compiler would find it where it is used, behind a wait.
template <class T>
__device__ __forceinline__ T *found_now(T *address) {
    asm volatile("" : "+l"(address));
    __builtin_assume(__isGlobal(address));
    return address;
}

#endif  // __CUDACC__

}  // namespace quamba
