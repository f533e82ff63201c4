// What a kernel says to overlap with the kernels before and behind it.
#pragma once

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
    const void *found = address;  // untyped: nvcc 13.0 fails on a pointer to a struct of one byte
    asm volatile("" : "+l"(found));
    __builtin_assume(__isGlobal(found));
    return static_cast<T *>(const_cast<void *>(found));
}

#endif  // __CUDACC__

}  // namespace quamba
